/* A sink that speaks S3: it reads bodies, digests them and forgets them.
 *
 * Input: HTTP/1.1 on 127.0.0.1 (PUT, multipart, LIST v1/v2, HEAD, DELETE, POST ?delete; signatures are not checked).
 * Output: for every object its size, MD5 and ETag (md5-of-md5s for multipart) as a real server lists them.
 * Invariant: what LIST says was computed from the bytes that came over the wire; no body is kept, so memory is about
 * 200 bytes an object and the server costs one MD5 pass: benchmarks measure the client.
 *
 *   sink --port 9000 [--log FILE] [--faults FILE] [--preload FILE] [--certificate FILE --key FILE]
 *
 * --log      one line a request: time, method, status, body bytes, query, key (percent-encoded)
 * --faults   lines `ACTION WHEN KEYPART`: requests of a body (PUT) whose key contains KEYPART (`*` = any) are met with
 *            ACTION  500 | 503 | 403 | reset | corrupt (one bit of the digested bytes differs) | lie (200, not stored)
 *                    | stall=SECONDS (silence, then served)
 *            WHEN    first=N (the first N of each rule) | every=N | after=N (all but the first N)
 * --preload  lines `SIZE MD5HEX KEY`: objects that are there from the start (bucket name first in KEY)
 *
 * --certificate, --key (PEM; built with -DSINK_TLS): https instead of http
 *
 * One thread a connection; one lock around the object table, never held while reading a body.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef SINK_TLS
#include <openssl/ssl.h>
static SSL_CTX *context;
#endif

/* ---- MD5 (RFC 1321) ---- */

typedef struct { uint32_t state[4]; uint64_t length; uint8_t rest[64]; } Md5;

static void md5_block(uint32_t *state, const uint8_t *data, size_t blocks)
{
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
#define F(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define G(x, y, z) (((x) & (z)) + ((y) & ~(z)))
#define H(x, y, z) ((x) ^ (y) ^ (z))
#define I(x, y, z) ((y) ^ ((x) | ~(z)))
#define STEP(f, a, b, c, d, k, s, t) \
    a += f(b, c, d) + m[k] + t; a = ((a << s) | (a >> (32 - s))) + b;
#define ROUND(f, k0, dk, s0, s1, s2, s3, t0, t1, t2, t3) \
    STEP(f, a, b, c, d, (k0) & 15, s0, t0) STEP(f, d, a, b, c, (k0 + dk) & 15, s1, t1) \
    STEP(f, c, d, a, b, (k0 + 2 * dk) & 15, s2, t2) STEP(f, b, c, d, a, (k0 + 3 * dk) & 15, s3, t3)
    for (; blocks; blocks--, data += 64) {
        uint32_t m[16], aa = a, bb = b, cc = c, dd = d;
        memcpy(m, data, 64);
        ROUND(F, 0, 1, 7, 12, 17, 22, 0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee)
        ROUND(F, 4, 1, 7, 12, 17, 22, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501)
        ROUND(F, 8, 1, 7, 12, 17, 22, 0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be)
        ROUND(F, 12, 1, 7, 12, 17, 22, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821)
        ROUND(G, 1, 5, 5, 9, 14, 20, 0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa)
        ROUND(G, 5, 5, 5, 9, 14, 20, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8)
        ROUND(G, 9, 5, 5, 9, 14, 20, 0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed)
        ROUND(G, 13, 5, 5, 9, 14, 20, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a)
        ROUND(H, 5, 3, 4, 11, 16, 23, 0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c)
        ROUND(H, 1, 3, 4, 11, 16, 23, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70)
        ROUND(H, 13, 3, 4, 11, 16, 23, 0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05)
        ROUND(H, 9, 3, 4, 11, 16, 23, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665)
        ROUND(I, 0, 7, 6, 10, 15, 21, 0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039)
        ROUND(I, 12, 7, 6, 10, 15, 21, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1)
        ROUND(I, 8, 7, 6, 10, 15, 21, 0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1)
        ROUND(I, 4, 7, 6, 10, 15, 21, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391)
        a += aa; b += bb; c += cc; d += dd;
    }
    state[0] = a; state[1] = b; state[2] = c; state[3] = d;
}

static void md5_start(Md5 *m)
{
    static const uint32_t start[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
    memcpy(m->state, start, sizeof start);
    m->length = 0;
}

static void md5_add(Md5 *m, const uint8_t *data, size_t length)
{
    size_t held = m->length & 63;
    m->length += length;
    if (held) {
        size_t take = 64 - held < length ? 64 - held : length;
        memcpy(m->rest + held, data, take);
        if (held + take < 64) return;
        md5_block(m->state, m->rest, 1);
        data += take; length -= take;
    }
    md5_block(m->state, data, length / 64);
    memcpy(m->rest, data + (length & ~(size_t)63), length & 63);
}

static void md5_end(Md5 *m, uint8_t out[16])
{
    uint64_t bits = m->length * 8;
    static const uint8_t pad[64] = {0x80};
    md5_add(m, pad, (119 - (m->length & 63)) % 64 + 1);
    md5_add(m, (const uint8_t *)&bits, 8);
    memcpy(out, m->state, 16);
}

static void hex(const uint8_t *bytes, char *out)
{
    for (int i = 0; i < 16; i++) sprintf(out + 2 * i, "%02x", bytes[i]);
}

/* ---- growing text ---- */

typedef struct { char *data; size_t length, room; } Text;

static void fail(const char *why)
{
    fprintf(stderr, "sink: %s\n", why);
    exit(1);
}

static void add(Text *t, const void *data, size_t length)
{
    if (length > 1u << 30) fail("a text is longer than any should be");
    if (t->length + length + 1 > t->room) {
        t->room = (t->length + length + 1) * 2;
        t->data = realloc(t->data, t->room);
        if (!t->data) fail("no memory");
    }
    memcpy(t->data + t->length, data, length);
    t->length += length;
    t->data[t->length] = 0;
}

static void addf(Text *t, const char *format, ...)
{
    char buffer[4096];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    if (n > 0) add(t, buffer, n < (int)sizeof buffer ? (size_t)n : sizeof buffer - 1);
}

/* Percent-encode everything but unreserved signs and '/': right in XML, in logs and for encoding-type=url. */
static void add_encoded(Text *t, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = s[i];
        if (isalnum(c) || strchr("-_.~/", c)) add(t, &c, 1);
        else addf(t, "%%%02X", c);
    }
}

static void add_xml(Text *t, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = s[i];
        if (c == '&') add(t, "&amp;", 5);
        else if (c == '<') add(t, "&lt;", 4);
        else if (c == '>') add(t, "&gt;", 4);
        else if (c < 32) addf(t, "&#%d;", c);
        else add(t, &c, 1);
    }
}

static size_t decode_percent(char *s, size_t n)
{
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned value;
        if (s[i] == '%' && i + 2 < n + 0 && sscanf(s + i + 1, "%2x", &value) == 1) { s[out++] = (char)value; i += 2; }
        else s[out++] = s[i];
    }
    s[out] = 0;
    return out;
}

/* ---- the objects: "bucket/key" -> size, ETag; a hash table, and a sorted view that a listing brings up to date ---- */

typedef struct { uint64_t size; time_t when; char etag[40]; uint32_t length; char *key; } Object;
typedef struct { char id[33]; char *key; size_t length; uint8_t (*md5)[16]; uint64_t *size; unsigned parts, room; } Upload;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Object **table, **sorted, **fresh; /* fresh: stored since the last listing, in order of arrival */
static size_t slots, objects, sorted_count, sorted_room, fresh_count, fresh_room;

static void sort_objects(void);
static size_t first_from(const char *key, size_t n, int after);
static Upload **uploads;
static size_t upload_count;

static uint64_t hash(const char *s, size_t n)
{
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static Object **find_slot(const char *key, size_t n)
{
    size_t i = hash(key, n) & (slots - 1);
    while (table[i] && (table[i]->length != n || memcmp(table[i]->key, key, n))) i = (i + 1) & (slots - 1);
    return &table[i];
}

static void store(const char *key, size_t n, uint64_t size, const char *etag)
{
    if (objects * 2 >= slots) {
        Object **old = table;
        size_t count = slots;
        slots = slots ? slots * 2 : 1 << 16;
        table = calloc(slots, sizeof *table);
        for (size_t i = 0; i < count; i++) if (old[i]) *find_slot(old[i]->key, old[i]->length) = old[i];
        free(old);
    }
    Object **slot = find_slot(key, n);
    if (!*slot) {
        *slot = calloc(1, sizeof **slot);
        (*slot)->key = memcpy(malloc(n + 1), key, n);
        (*slot)->key[n] = 0;
        (*slot)->length = (uint32_t)n;
        objects++;
        if (fresh_count == fresh_room) fresh = realloc(fresh, (fresh_room = fresh_room * 2 + 1024) * sizeof *fresh);
        fresh[fresh_count++] = *slot;
    }
    (*slot)->size = size;
    (*slot)->when = time(NULL);
    snprintf((*slot)->etag, sizeof (*slot)->etag, "%s", etag);
}

static Object *lookup(const char *key, size_t n) { return slots ? *find_slot(key, n) : NULL; }

static void drop(const char *key, size_t n)
{
    Object **slot = slots ? find_slot(key, n) : NULL;
    if (!slot || !*slot) return;
    sort_objects();
    size_t place = first_from(key, n, 0);
    memmove(sorted + place, sorted + place + 1, (--sorted_count - place) * sizeof *sorted);
    free((*slot)->key);
    free(*slot);
    *slot = NULL;
    objects--;
    /* Linear probing: what follows the hole may belong into it. */
    for (size_t i = (size_t)(slot - table + 1) & (slots - 1); table[i]; i = (i + 1) & (slots - 1)) {
        Object *moved = table[i];
        table[i] = NULL;
        *find_slot(moved->key, moved->length) = moved;
    }
}

static int compare(const char *a, size_t n, const char *b, size_t m)
{
    int order = memcmp(a, b, n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

static int by_key(const void *a, const void *b)
{
    const Object *x = *(Object *const *)a, *y = *(Object *const *)b;
    return compare(x->key, x->length, y->key, y->length);
}

/* Merge what is fresh into the sorted view, from the back: a run of neighbours costs one move of what follows it. */
static void sort_objects(void)
{
    if (!fresh_count) return;
    qsort(fresh, fresh_count, sizeof *fresh, by_key);
    if (sorted_count + fresh_count > sorted_room)
        sorted = realloc(sorted, (sorted_room = 2 * (sorted_count + fresh_count)) * sizeof *sorted);
    size_t end = sorted_count, whole = sorted_count + fresh_count;
    for (size_t left = fresh_count; left; left--) {
        sorted_count = end; /* what first_from looks through */
        size_t place = first_from(fresh[left - 1]->key, fresh[left - 1]->length, 0);
        memmove(sorted + place + left, sorted + place, (end - place) * sizeof *sorted);
        sorted[place + left - 1] = fresh[left - 1];
        end = place;
    }
    sorted_count = whole;
    fresh_count = 0;
}

static size_t first_from(const char *key, size_t n, int after)
{
    size_t low = 0, high = sorted_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = compare(sorted[middle]->key, sorted[middle]->length, key, n);
        if (order < 0 || (after && order == 0)) low = middle + 1; else high = middle;
    }
    return low;
}

/* ---- faults and the log ---- */

typedef struct { char action[24], part[512]; int mode; long n, seen; double seconds; } Rule;
static Rule rules[64];
static int rule_count;
static FILE *log_file;

static const Rule *fault(const char *key)
{
    const Rule *hit = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < rule_count && !hit; i++) {
        Rule *r = &rules[i];
        if (strcmp(r->part, "*") && !strstr(key, r->part)) continue;
        long n = ++r->seen;
        if (r->mode == 'f' ? n <= r->n : r->mode == 'e' ? n % r->n == 0 : n > r->n) hit = r;
    }
    pthread_mutex_unlock(&lock);
    return hit;
}

static void read_faults(const char *path)
{
    FILE *f = fopen(path, "r");
    char line[1024], when[64];
    if (!f) { perror(path); exit(2); }
    while (fgets(line, sizeof line, f) && rule_count < 64) {
        Rule *r = &rules[rule_count];
        if (sscanf(line, "%23s %63s %511[^\n]", r->action, when, r->part) != 3) continue;
        char *equals = strchr(when, '=');
        if (!equals || !strchr("fea", when[0])) { fprintf(stderr, "%s: %s", path, line); exit(2); }
        r->mode = when[0];
        r->n = atol(equals + 1);
        if (!strncmp(r->action, "stall=", 6)) { r->seconds = atof(r->action + 6); r->action[5] = 0; }
        rule_count++;
    }
    fclose(f);
}

static void preload(const char *path)
{
    FILE *f = fopen(path, "r");
    char *line = NULL, etag[40];
    size_t room = 0;
    ssize_t n;
    unsigned long long size;
    int at;
    if (!f) { perror(path); exit(2); }
    while ((n = getline(&line, &room, f)) > 0) {
        if (line[n - 1] == '\n') line[--n] = 0;
        if (sscanf(line, "%llu %39s %n", &size, etag, &at) == 2) store(line + at, (size_t)(n - at), size, etag);
    }
    free(line);
    fclose(f);
}

/* ---- one connection ---- */

#define BUFFER (256 * 1024)

typedef struct {
    int fd;
    uint8_t *buffer;
    size_t start, end;
    char head[32768];
    char method[16], key[4096], query[8192];
    size_t key_length, bucket_length; /* key is "bucket/key", decoded */
    char *length_header, *sha_header;
    uint64_t body, read_body;
    int chunked_transfer, aws_chunked, close_after;
#ifdef SINK_TLS
    SSL *tls;
#endif
} Connection;

static ssize_t receive(Connection *c, void *data, size_t n)
{
#ifdef SINK_TLS
    if (c->tls) return SSL_read(c->tls, data, (int)n);
#endif
    return recv(c->fd, data, n, 0);
}

static ssize_t transmit(Connection *c, const void *data, size_t n)
{
#ifdef SINK_TLS
    if (c->tls) return SSL_write(c->tls, data, (int)n);
#endif
    return send(c->fd, data, n, MSG_NOSIGNAL);
}

static int fill(Connection *c)
{
    if (c->start == c->end) c->start = c->end = 0;
    ssize_t n = receive(c, c->buffer + c->end, BUFFER - c->end);
    if (n <= 0) return 0;
    c->end += (size_t)n;
    return 1;
}

static int send_all(Connection *c, const char *data, size_t n)
{
    while (n) {
        ssize_t sent = transmit(c, data, n);
        if (sent <= 0) return 0;
        data += sent; n -= (size_t)sent;
    }
    return 1;
}

static const char *reason(int status)
{
    return status == 200 ? "OK" : status == 204 ? "No Content" : status == 404 ? "Not Found" : status == 403 ? "Forbidden"
         : status == 412 ? "Precondition Failed" : status == 503 ? "Service Unavailable" : status == 500
         ? "Internal Server Error" : status == 501 ? "Not Implemented" : "Bad Request";
}

static int answer(Connection *c, int status, const char *etag, const char *type, const Text *body, const char *more)
{
    Text out = {0};
    addf(&out, "HTTP/1.1 %d %s\r\nServer: sink\r\nx-amz-request-id: sink\r\n%s", status, reason(status), more ? more : "");
    if (etag) addf(&out, "ETag: \"%s\"\r\n", etag);
    if (body && body->length) addf(&out, "Content-Type: %s\r\n", type);
    if (!more || !strcasestr(more, "content-length")) addf(&out, "Content-Length: %zu\r\n", body ? body->length : 0);
    if (c->close_after) addf(&out, "Connection: close\r\n");
    add(&out, "\r\n", 2);
    if (body && body->length) add(&out, body->data, body->length);
    int ok = send_all(c, out.data, out.length);
    free(out.data);
    if (log_file) {
        Text line = {0};
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        addf(&line, "%ld.%06ld %s %d %llu ?", (long)now.tv_sec, now.tv_nsec / 1000, c->method, status,
             (unsigned long long)c->read_body);
        add(&line, c->query, strlen(c->query));
        add(&line, " ", 1);
        add_encoded(&line, c->key, c->key_length);
        add(&line, "\n", 1);
        fwrite(line.data, 1, line.length, log_file); /* stdio locks the stream: lines stay whole */
        fflush(log_file);
        free(line.data);
    }
    return ok && !c->close_after;
}

static int refuse(Connection *c, int status, const char *code)
{
    Text body = {0};
    addf(&body, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>%s</Message></Error>", code, code);
    int ok = answer(c, status, NULL, "application/xml", strcmp(c->method, "HEAD") ? &body : NULL, NULL);
    free(body.data);
    return ok;
}

/* The value of a query parameter, decoded; NULL when absent. */
static char *parameter(Connection *c, const char *name, char *out, size_t room)
{
    size_t n = strlen(name);
    for (const char *p = c->query; *p;) {
        const char *end = strchrnul(p, '&');
        if (!strncmp(p, name, n) && (p[n] == '=' || p + n == end)) {
            size_t length = p[n] == '=' ? (size_t)(end - p - n - 1) : 0;
            if (length >= room) length = room - 1;
            memcpy(out, p + n + 1, length);
            for (size_t i = 0; i < length; i++) if (out[i] == '+') out[i] = ' ';
            out[decode_percent(out, length)] = 0;
            return out;
        }
        p = *end ? end + 1 : end;
    }
    return NULL;
}

static char *header(Connection *c, const char *name)
{
    size_t n = strlen(name);
    for (char *p = strstr(c->head, "\r\n"); p && p[2]; p = strstr(p + 2, "\r\n"))
        if (!strncasecmp(p + 2, name, n) && p[2 + n] == ':') {
            p += 3 + n;
            while (*p == ' ') p++;
            return p;
        }
    return NULL;
}

static int read_head(Connection *c)
{
    uint8_t *end;
    while (!(end = memmem(c->buffer + c->start, c->end - c->start, "\r\n\r\n", 4))) {
        if (c->end - c->start >= sizeof c->head - 1) return 0;
        if (c->start) { memmove(c->buffer, c->buffer + c->start, c->end - c->start); c->end -= c->start; c->start = 0; }
        if (!fill(c)) return 0;
    }
    size_t n = (size_t)(end - (c->buffer + c->start)) + 4;
    if (n >= sizeof c->head) return 0;
    memcpy(c->head, c->buffer + c->start, n);
    c->head[n] = 0;
    c->start += n;
    char *target = strchr(c->head, ' ');
    if (!target || target - c->head >= (long)sizeof c->method) return 0;
    memcpy(c->method, c->head, (size_t)(target - c->head));
    c->method[target - c->head] = 0;
    char *stop = strchr(++target, ' ');
    if (!stop || *target != '/') return 0;
    char *mark = memchr(target, '?', (size_t)(stop - target));
    char *path_end = mark ? mark : stop;
    size_t path = (size_t)(path_end - target - 1), query = mark ? (size_t)(stop - mark - 1) : 0;
    if (path >= sizeof c->key || query >= sizeof c->query) return 0;
    memcpy(c->key, target + 1, path);
    c->key_length = decode_percent(c->key, path);
    char *slash = memchr(c->key, '/', c->key_length);
    c->bucket_length = slash ? (size_t)(slash - c->key) : c->key_length;
    memcpy(c->query, mark ? mark + 1 : "", query);
    c->query[query] = 0;
    char *value = header(c, "content-length"), *encoding = header(c, "content-encoding");
    char *sha = header(c, "x-amz-content-sha256"), *transfer = header(c, "transfer-encoding");
    char *expect = header(c, "expect"), *connection = header(c, "connection");
    c->body = value ? strtoull(value, NULL, 10) : 0;
    c->read_body = 0;
    c->chunked_transfer = transfer && !strncasecmp(transfer, "chunked", 7);
    c->aws_chunked = (encoding && !strncasecmp(encoding, "aws-chunked", 11)) || (sha && !strncmp(sha, "STREAMING-", 10));
    c->close_after = connection && !strncasecmp(connection, "close", 5);
    if (expect && !strncasecmp(expect, "100-continue", 12) && !send_all(c, "HTTP/1.1 100 Continue\r\n\r\n", 25)) return 0;
    return 1;
}

/* Raw body bytes, at most `want`, straight from the buffer; 0 at a broken connection. */
static size_t take(Connection *c, uint8_t **data, uint64_t want)
{
    if (c->start == c->end && !fill(c)) return 0;
    size_t n = c->end - c->start;
    if (n > want) n = (size_t)want;
    *data = c->buffer + c->start;
    c->start += n;
    c->read_body += n;
    return n;
}

static int read_line(Connection *c, char *out, size_t room)
{
    size_t n = 0;
    uint8_t *data;
    while (n + 1 < room) {
        if (!take(c, &data, 1)) return 0;
        if (*data == '\n') { out[n && out[n - 1] == '\r' ? n - 1 : n] = 0; return 1; }
        out[n++] = (char)*data;
    }
    return 0;
}

/* Feed the decoded body to the digest (and to `keep`, for small XML bodies); the decoded length or -1. */
static int64_t read_body(Connection *c, Md5 *md5, Text *keep, int corrupt)
{
    int64_t total = 0;
    uint8_t *data;
    char line[512];
    int framed = c->aws_chunked || c->chunked_transfer;
    uint64_t left = framed ? 0 : c->body;
    for (;;) {
        if (framed) { /* "SIZE[;chunk-signature=…]\r\n" data "\r\n" … "0…\r\n" trailers "\r\n" */
            if (!read_line(c, line, sizeof line)) return -1;
            left = strtoull(line, NULL, 16);
            if (!left) {
                do if (!read_line(c, line, sizeof line)) return -1; while (*line);
                return total;
            }
        }
        for (size_t n; left; left -= n, total += (int64_t)n) {
            if (!(n = take(c, &data, left))) return -1;
            if (corrupt && !total) data[0] ^= 1;
            if (md5) md5_add(md5, data, n);
            if (keep && keep->length < (4 << 20)) add(keep, data, n);
        }
        if (!framed) return total;
        if (!read_line(c, line, sizeof line)) return -1;
    }
}

static Upload *find_upload(const char *id)
{
    for (size_t i = 0; i < upload_count; i++) if (!strcmp(uploads[i]->id, id)) return uploads[i];
    return NULL;
}

static void drop_upload(Upload *u)
{
    for (size_t i = 0; i < upload_count; i++) if (uploads[i] == u) { uploads[i] = uploads[--upload_count]; break; }
    free(u->key); free(u->md5); free(u->size); free(u);
}

static void stamp(time_t when, char out[32])
{
    struct tm parts;
    strftime(out, 32, "%Y-%m-%dT%H:%M:%S.000Z", gmtime_r(&when, &parts));
}

static int list(Connection *c)
{
    char prefix[4096], delimiter[64], after[4096], number[32], kind[32], date[32];
    size_t n = c->bucket_length, count = 0;
    if (!parameter(c, "prefix", prefix, sizeof prefix)) *prefix = 0;
    if (!parameter(c, "delimiter", delimiter, sizeof delimiter)) *delimiter = 0;
    int v2 = parameter(c, "list-type", kind, sizeof kind) != NULL;
    int encoded = parameter(c, "encoding-type", kind, sizeof kind) != NULL;
    if (!parameter(c, "continuation-token", after, sizeof after) && !parameter(c, "start-after", after, sizeof after)
        && !parameter(c, "marker", after, sizeof after)) *after = 0;
    size_t most = parameter(c, "max-keys", number, sizeof number) ? strtoul(number, NULL, 10) : 1000;
    if (most > 1000) most = 1000;
    Text body = {0}, from = {0}, want = {0}, last = {0};
    add(&want, c->key, n); add(&want, "/", 1); add(&want, prefix, strlen(prefix));
    add(&from, c->key, n); add(&from, "/", 1); add(&from, after, strlen(after));
    addf(&body, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>%.*s</Name>", (int)n, c->key);
    if (encoded) addf(&body, "<EncodingType>url</EncodingType>");
    void (*put)(Text *, const char *, size_t) = encoded ? add_encoded : add_xml;
    pthread_mutex_lock(&lock);
    sort_objects();
    int resume = *after && compare(from.data, from.length, want.data, want.length) >= 0;
    size_t i = resume ? first_from(from.data, from.length, 1) : first_from(want.data, want.length, 0);
    /* A token that is a common prefix stands for everything below it. */
    if (resume && *delimiter && after[strlen(after) - 1] == *delimiter)
        while (i < sorted_count && sorted[i]->length >= from.length && !memcmp(sorted[i]->key, from.data, from.length)) i++;
    int more = 0;
    while (i < sorted_count) {
        Object *o = sorted[i];
        if (o->length < want.length || memcmp(o->key, want.data, want.length)) break;
        if (count == most) { more = 1; break; }
        char *cut = *delimiter ? memmem(o->key + want.length, o->length - want.length, delimiter, strlen(delimiter)) : NULL;
        last.length = 0;
        if (cut) {
            size_t m = (size_t)(cut - o->key) + strlen(delimiter);
            add(&body, "<CommonPrefixes><Prefix>", 24);
            put(&body, o->key + n + 1, m - n - 1);
            add(&body, "</Prefix></CommonPrefixes>", 26);
            add(&last, o->key + n + 1, m - n - 1);
            Object *group = o;
            while (i < sorted_count && sorted[i]->length >= m && !memcmp(sorted[i]->key, group->key, m)) i++;
        } else {
            stamp(o->when, date);
            add(&body, "<Contents><Key>", 15);
            put(&body, o->key + n + 1, o->length - n - 1);
            addf(&body, "</Key><LastModified>%s</LastModified><ETag>&quot;%s&quot;</ETag><Size>%llu</Size>"
                 "<StorageClass>STANDARD</StorageClass></Contents>", date, o->etag, (unsigned long long)o->size);
            add(&last, o->key + n + 1, o->length - n - 1);
            i++;
        }
        count++;
    }
    pthread_mutex_unlock(&lock);
    addf(&body, "<IsTruncated>%s</IsTruncated><MaxKeys>%zu</MaxKeys><KeyCount>%zu</KeyCount>", more ? "true" : "false", most, count);
    if (more) {
        const char *tag = v2 ? "NextContinuationToken" : "NextMarker";
        addf(&body, "<%s>", tag);
        if (v2) add_xml(&body, last.data, last.length); else put(&body, last.data, last.length);
        addf(&body, "</%s>", tag);
    }
    addf(&body, "</ListBucketResult>");
    int ok = answer(c, 200, NULL, "application/xml", &body, NULL);
    free(body.data); free(from.data); free(want.data); free(last.data);
    return ok;
}

static int complete(Connection *c, const char *id, const Text *xml)
{
    Md5 md5;
    uint8_t digest[16];
    char etag[48];
    uint64_t size = 0;
    unsigned parts = 0;
    pthread_mutex_lock(&lock);
    Upload *u = find_upload(id);
    if (!u) { pthread_mutex_unlock(&lock); return refuse(c, 404, "NoSuchUpload"); }
    md5_start(&md5);
    for (char *p = xml->data; p && (p = strstr(p, "<PartNumber>")); p++, parts++) {
        unsigned long number = strtoul(p + 12, NULL, 10);
        if (!number || number > u->room || u->size[number - 1] == UINT64_MAX) {
            pthread_mutex_unlock(&lock);
            return refuse(c, 400, "InvalidPart");
        }
        md5_add(&md5, u->md5[number - 1], 16);
        size += u->size[number - 1];
    }
    if (!parts) { pthread_mutex_unlock(&lock); return refuse(c, 400, "MalformedXML"); }
    md5_end(&md5, digest);
    hex(digest, etag);
    sprintf(etag + 32, "-%u", parts);
    store(u->key, u->length, size, etag);
    drop_upload(u);
    pthread_mutex_unlock(&lock);
    Text body = {0};
    addf(&body, "<?xml version=\"1.0\"?><CompleteMultipartUploadResult><ETag>&quot;%s&quot;</ETag></CompleteMultipartUploadResult>", etag);
    int ok = answer(c, 200, NULL, "application/xml", &body, NULL);
    free(body.data);
    return ok;
}

static int put_object(Connection *c)
{
    char id[64], number[32], etag[40];
    const Rule *rule = rule_count ? fault(c->key) : NULL;
    Md5 md5;
    uint8_t digest[16];
    md5_start(&md5);
    if (rule && !strcmp(rule->action, "reset")) {
        struct linger hard = {1, 0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        return 0;
    }
    if (rule && !strcmp(rule->action, "stall")) usleep((useconds_t)(rule->seconds * 1e6));
    int64_t size = read_body(c, &md5, NULL, rule && !strcmp(rule->action, "corrupt"));
    if (size < 0) return 0;
    md5_end(&md5, digest);
    hex(digest, etag);
    if (rule && !strcmp(rule->action, "500")) return refuse(c, 500, "InternalError");
    if (rule && !strcmp(rule->action, "503")) return refuse(c, 503, "SlowDown");
    if (rule && !strcmp(rule->action, "403")) return refuse(c, 403, "ExpiredToken");
    if (rule && !strcmp(rule->action, "lie")) return answer(c, 200, etag, NULL, NULL, NULL);
    if (c->bucket_length + 1 >= c->key_length) return answer(c, 200, NULL, NULL, NULL, NULL); /* CreateBucket */
    if (parameter(c, "uploadId", id, sizeof id) && parameter(c, "partNumber", number, sizeof number)) {
        unsigned part = (unsigned)strtoul(number, NULL, 10);
        pthread_mutex_lock(&lock);
        Upload *u = find_upload(id);
        if (u && part && part <= 10000) {
            if (part > u->room) {
                unsigned room = part * 2;
                u->md5 = realloc(u->md5, room * sizeof *u->md5);
                u->size = realloc(u->size, room * sizeof *u->size);
                for (unsigned i = u->room; i < room; i++) u->size[i] = UINT64_MAX;
                u->room = room;
            }
            memcpy(u->md5[part - 1], digest, 16);
            u->size[part - 1] = (uint64_t)size;
        }
        pthread_mutex_unlock(&lock);
        return u && part && part <= 10000 ? answer(c, 200, etag, NULL, NULL, NULL) : refuse(c, 404, "NoSuchUpload");
    }
    char *condition = header(c, "if-none-match");
    pthread_mutex_lock(&lock);
    int exists = condition && *condition == '*' && lookup(c->key, c->key_length);
    if (!exists) store(c->key, c->key_length, (uint64_t)size, etag);
    pthread_mutex_unlock(&lock);
    return exists ? refuse(c, 412, "PreconditionFailed") : answer(c, 200, etag, NULL, NULL, NULL);
}

static int post(Connection *c)
{
    char id[64], none[8];
    Text xml = {0}, body = {0};
    int ok = 0;
    if (read_body(c, NULL, &xml, 0) < 0) goto end;
    if (parameter(c, "uploadId", id, sizeof id)) ok = complete(c, id, &xml);
    else if (parameter(c, "uploads", none, sizeof none)) {
        static unsigned long serial;
        Upload *u = calloc(1, sizeof *u);
        u->key = memcpy(malloc(c->key_length + 1), c->key, c->key_length);
        u->length = c->key_length;
        u->key[u->length] = 0;
        pthread_mutex_lock(&lock);
        snprintf(u->id, sizeof u->id, "%08lx%08lx", (unsigned long)time(NULL), ++serial);
        snprintf(id, sizeof id, "%s", u->id);
        uploads = realloc(uploads, (upload_count + 1) * sizeof *uploads);
        uploads[upload_count++] = u;
        pthread_mutex_unlock(&lock);
        addf(&body, "<?xml version=\"1.0\"?><InitiateMultipartUploadResult><Bucket>%.*s</Bucket><Key>", (int)c->bucket_length, c->key);
        add_xml(&body, c->key + c->bucket_length + 1, c->key_length - c->bucket_length - 1);
        addf(&body, "</Key><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id);
        ok = answer(c, 200, NULL, "application/xml", &body, NULL);
    } else if (parameter(c, "delete", none, sizeof none)) {
        addf(&body, "<?xml version=\"1.0\"?><DeleteResult>");
        pthread_mutex_lock(&lock);
        for (char *p = xml.data; p && (p = strstr(p, "<Key>")); p++) {
            char *end = strstr(p += 5, "</Key>");
            if (!end) break;
            Text key = {0};
            add(&key, c->key, c->bucket_length); add(&key, "/", 1); add(&key, p, (size_t)(end - p));
            drop(key.data, key.length);
            free(key.data);
        }
        pthread_mutex_unlock(&lock);
        addf(&body, "</DeleteResult>");
        ok = answer(c, 200, NULL, "application/xml", &body, NULL);
    } else ok = refuse(c, 501, "NotImplemented");
end:
    free(xml.data);
    free(body.data);
    return ok;
}

static int get(Connection *c)
{
    char value[64], date[40], more[512];
    Text body = {0};
    int bucket = c->bucket_length + 1 >= c->key_length, ok;
    if (read_body(c, NULL, NULL, 0) < 0) return 0;
    int head = !strcmp(c->method, "HEAD");
    if (bucket && head) return answer(c, 200, NULL, NULL, NULL, "x-amz-bucket-region: us-east-1\r\n");
    if (bucket) {
        if (parameter(c, "location", value, sizeof value)) addf(&body, "<?xml version=\"1.0\"?><LocationConstraint/>");
        else if (parameter(c, "versioning", value, sizeof value)) addf(&body, "<?xml version=\"1.0\"?><VersioningConfiguration/>");
        else if (parameter(c, "uploads", value, sizeof value)) {
            addf(&body, "<?xml version=\"1.0\"?><ListMultipartUploadsResult><IsTruncated>false</IsTruncated>");
            pthread_mutex_lock(&lock);
            stamp(time(NULL), date);
            for (size_t i = 0; i < upload_count; i++) {
                if (strncmp(uploads[i]->key, c->key, c->bucket_length)) continue;
                addf(&body, "<Upload><Key>");
                add_xml(&body, uploads[i]->key + c->bucket_length + 1, uploads[i]->length - c->bucket_length - 1);
                addf(&body, "</Key><UploadId>%s</UploadId><Initiated>%s</Initiated></Upload>", uploads[i]->id, date);
            }
            pthread_mutex_unlock(&lock);
            addf(&body, "</ListMultipartUploadsResult>");
        } else if (parameter(c, "encryption", value, sizeof value)) return refuse(c, 404, "ServerSideEncryptionConfigurationNotFoundError");
        else if (parameter(c, "versions", value, sizeof value)) return refuse(c, 501, "NotImplemented");
        else if (parameter(c, "lifecycle", value, sizeof value)) return refuse(c, 404, "NoSuchLifecycleConfiguration");
        else if (!c->key_length) addf(&body, "<?xml version=\"1.0\"?><ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>");
        else return list(c);
        ok = answer(c, 200, NULL, "application/xml", &body, NULL);
        free(body.data);
        return ok;
    }
    pthread_mutex_lock(&lock);
    Object *o = lookup(c->key, c->key_length), copy;
    if (o) copy = *o;
    pthread_mutex_unlock(&lock);
    if (!o) return refuse(c, 404, head ? "NotFound" : "NoSuchKey");
    if (!head) return refuse(c, 501, "NotImplemented"); /* the bytes are gone */
    struct tm parts;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&copy.when, &parts));
    snprintf(more, sizeof more, "Content-Length: %llu\r\nContent-Type: application/octet-stream\r\nLast-Modified: %s\r\n",
             (unsigned long long)copy.size, date);
    return answer(c, 200, copy.etag, NULL, NULL, more);
}

static int delete(Connection *c)
{
    char id[64];
    if (read_body(c, NULL, NULL, 0) < 0) return 0;
    pthread_mutex_lock(&lock);
    if (parameter(c, "uploadId", id, sizeof id)) {
        Upload *u = find_upload(id);
        if (u) drop_upload(u);
    } else drop(c->key, c->key_length);
    pthread_mutex_unlock(&lock);
    return answer(c, 204, NULL, NULL, NULL, NULL);
}

static void *serve(void *argument)
{
    Connection *c = calloc(1, sizeof *c);
    c->fd = (int)(intptr_t)argument;
    c->buffer = malloc(BUFFER);
    int one = 1, ok = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
#ifdef SINK_TLS
    if (context) {
        c->tls = SSL_new(context);
        ok = c->tls && SSL_set_fd(c->tls, c->fd) == 1 && SSL_accept(c->tls) == 1;
    }
#endif
    while (ok && read_head(c))
        ok = !strcmp(c->method, "PUT") ? put_object(c) : !strcmp(c->method, "POST") ? post(c)
           : !strcmp(c->method, "DELETE") ? delete(c) : get(c);
#ifdef SINK_TLS
    if (c->tls) SSL_free(c->tls);
#endif
    close(c->fd);
    free(c->buffer);
    free(c);
    return NULL;
}

int main(int count, char **arguments)
{
    int port = 0, one = 1;
    const char *certificate = NULL, *key = NULL;
    for (int i = 1; i + 1 < count; i += 2) {
        if (!strcmp(arguments[i], "--port")) port = atoi(arguments[i + 1]);
        else if (!strcmp(arguments[i], "--log")) { if (!(log_file = fopen(arguments[i + 1], "a"))) { perror(arguments[i + 1]); return 2; } }
        else if (!strcmp(arguments[i], "--faults")) read_faults(arguments[i + 1]);
        else if (!strcmp(arguments[i], "--preload")) preload(arguments[i + 1]);
        else if (!strcmp(arguments[i], "--certificate")) certificate = arguments[i + 1];
        else if (!strcmp(arguments[i], "--key")) key = arguments[i + 1];
        else { fprintf(stderr, "unknown option %s\n", arguments[i]); return 2; }
    }
    signal(SIGPIPE, SIG_IGN);
    if (certificate || key) {
#ifdef SINK_TLS
        context = SSL_CTX_new(TLS_server_method());
        if (!context || !certificate || !key || SSL_CTX_use_certificate_chain_file(context, certificate) != 1
            || SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1) {
            fprintf(stderr, "the certificate or its key cannot be used\n");
            return 2;
        }
#else
        fprintf(stderr, "built without TLS\n");
        return 2;
#endif
    }
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) { perror("listen"); return 1; }
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port)); /* the parent reads the port: ready */
    fflush(stdout);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 256 * 1024);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t thread;
        if (fd < 0) { if (errno == EMFILE || errno == ENFILE) usleep(1000); continue; }
        if (pthread_create(&thread, &small, serve, (void *)(intptr_t)fd)) close(fd);
    }
}
