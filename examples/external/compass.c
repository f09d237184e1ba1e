/* A method in C, over the pipe: it turns as the columns of the image shift, and walks ahead at an even pace.
 *
 *   cc -O2 -o compass examples/external/compass.c -lm
 *   lingbot-eval external check --mode pipe ./compass
 *
 * Messages are MessagePack, each after its length in 4 bytes, the highest first (docs/external.md). What is read here
 * comes from lingbot-eval, so only what it sends is understood. Standard error is the log.
 */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROTOCOL = 1, MOST_COLUMNS = 8192 };

/* --- a message as it comes --- */

static uint8_t *message = NULL;

static uint64_t number(const uint8_t *at, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | at[i];
    return value;
}

static int receive(void) {
    uint8_t head[4];
    if (fread(head, 1, 4, stdin) != 4) return 0;
    size_t size = number(head, 4);
    message = realloc(message, size + 1);
    return message != NULL && fread(message, 1, size, stdin) == size;
}

/* Text, bytes, a list or a dict: how many elements it has; *at moves behind its head. */
static size_t count(const uint8_t **at) {
    uint8_t code = *(*at)++;
    if (code >= 0x80 && code < 0xa0) return code & 0x0f;
    if (code >= 0xa0 && code < 0xc0) return code & 0x1f;
    /* c4 c5 c6: bytes; d9 da db: text; dc dd: a list; de df: a dict */
    int bytes = code == 0xc4 || code == 0xd9 ? 1 : code == 0xc5 || code == 0xda || code == 0xdc || code == 0xde ? 2 : 4;
    size_t found = number(*at, bytes);
    *at += bytes;
    return found;
}

static const uint8_t *after(const uint8_t *at) {
    uint8_t code = *at;
    if (code < 0x80 || code >= 0xe0 || code == 0xc0 || code == 0xc2 || code == 0xc3) return at + 1;
    if (code == 0xcb || code == 0xcf || code == 0xd3) return at + 9;
    size_t elements = count(&at);
    int is_list = (code >= 0x90 && code < 0xa0) || code == 0xdc || code == 0xdd;
    int is_dict = (code >= 0x80 && code < 0x90) || code == 0xde || code == 0xdf;
    if (!is_list && !is_dict) return at + elements;
    for (size_t i = 0; i < elements * (is_dict ? 2 : 1); i++) at = after(at);
    return at;
}

static const uint8_t *find(const char *key) {
    const uint8_t *at = message;
    for (size_t left = count(&at); left > 0; left--) {
        const uint8_t *text = at;
        size_t length = count(&text);
        at = after(at);
        if (length == strlen(key) && memcmp(text, key, length) == 0) return at;
        at = after(at);
    }
    fprintf(stderr, "the message has no %s\n", key);
    exit(1);
}

static int is(const char *key, const char *value) {
    const uint8_t *at = find(key);
    size_t length = count(&at);
    return length == strlen(value) && memcmp(at, value, length) == 0;
}

static int64_t integer(const char *key) {
    const uint8_t *at = find(key);
    return *at < 0x80 ? *at : (int64_t)number(at + 1, 8);
}

static double real(const uint8_t *at) {
    uint64_t bits = number(at + 1, 8);
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

/* --- an answer as it goes --- */

static uint8_t answer[1024];
static size_t used;

static void put_byte(int byte) { answer[used++] = (uint8_t)byte; }

static void put_number(uint64_t value, int bytes) {
    while (bytes-- > 0) put_byte((int)(value >> (8 * bytes) & 0xff));
}

static void put_text(const char *text) {
    put_byte(0xa0 + (int)strlen(text));
    while (*text) put_byte(*text++);
}

static void put_integer(int64_t value) {
    put_byte(0xd3);
    put_number((uint64_t)value, 8);
}

static void put_real(double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    put_byte(0xcb);
    put_number(bits, 8);
}

static void begin(const char *type, int entries) {
    used = 4; /* the length comes there */
    put_byte(0x80 + entries);
    put_text("type");
    put_text(type);
}

static void reply(void) {
    size_t end = used;
    used = 0;
    put_number(end - 4, 4);
    fwrite(answer, 1, end, stdout);
    fflush(stdout);
}

/* --- the method --- */

static int width, height;
static double columns[2][MOST_COLUMNS]; /* brightness of each column: of the last frame, of this one */
static double yaw, x, z;

/* How far the image's content moved to the left, in pixels: the camera turned to the right. */
static int shift(void) {
    int best = 0;
    double least = INFINITY;
    for (int s = -width / 6; s <= width / 6; s++) {
        double sum = 0;
        int n = 0;
        for (int u = width / 6; u < width - width / 6; u++, n++) {
            double d = columns[0][u + s] - columns[1][u];
            sum += d * d;
        }
        if (sum / n < least) least = sum / n, best = s;
    }
    return best;
}

static void step(void) {
    const uint8_t *pixels = find("image"), *k = find("intrinsics");
    count(&pixels);
    double focal = 0.8 * width;
    if (*k != 0xc0) { /* three rows of three: the first number of the first row */
        count(&k);
        count(&k);
        focal = real(k);
    }
    int first = integer("index") == 0;
    memcpy(columns[0], columns[1], sizeof columns[0]);
    memset(columns[1], 0, sizeof columns[1]);
    for (int v = 0; v < height; v++)
        for (int u = 0; u < width; u++, pixels += 3) columns[1][u] += pixels[0] + pixels[1] + pixels[2];
    if (!first) {
        yaw += atan2(shift(), focal);
        x += 0.05 * sin(yaw);
        z += 0.05 * cos(yaw);
    }
    double pose[16] = {cos(yaw), 0, sin(yaw), x, 0, 1, 0, 0, -sin(yaw), 0, cos(yaw), z, 0, 0, 0, 1};
    begin("poses", 2);
    put_text("poses");
    put_byte(0x91); /* a list of one */
    put_byte(0x82); /* a dict of two */
    put_text("frame");
    put_integer(integer("index"));
    put_text("camera_to_world");
    put_byte(0xdc);
    put_number(16, 2);
    for (int i = 0; i < 16; i++) put_real(pose[i]);
    reply();
}

int main(void) {
    while (receive()) {
        if (is("type", "hello")) {
            if (integer("protocol") != PROTOCOL) return 1;
            width = (int)integer("width");
            height = (int)integer("height");
            if (width > MOST_COLUMNS) return 1;
            begin("ready", 4);
            put_text("protocol");
            put_integer(PROTOCOL);
            put_text("name");
            put_text("compass");
            put_text("version");
            put_text("1");
            reply();
        } else if (is("type", "frame")) {
            step();
        } else { /* warm_up, finish: nothing to say */
            begin("poses", 2);
            put_text("poses");
            put_byte(0x90);
            reply();
        }
    }
    return 0;
}
