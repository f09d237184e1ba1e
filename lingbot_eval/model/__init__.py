"""The network of LingBot-Map: backbone, aggregator, camera head, depth and point heads, weights."""
