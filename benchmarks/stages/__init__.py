"""Where the time of one streaming step goes, stage by stage, against the least that the machine allows."""
