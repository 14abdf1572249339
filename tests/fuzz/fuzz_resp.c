/* libFuzzer target of the scanner, which needs no Python.
 *
 * The first bytes of an input choose the limits and how the rest is cut; the rest is
 * a stream of replies. For each reply:
 *   - scanning it at once and in pieces gives the same status, length and reason;
 *   - an independent reader, too simple to be wrong in the same way, agrees;
 *   - the scanner never passes a byte it was not given (the pieces are in blocks of
 *     exactly their size, for the sanitizer), and never goes back;
 *   - searching is bounded: no byte is searched twice, whatever the pieces.
 * Requests are scanned as well, and must be replies of the same length.
 *
 * With -DCP_FUZZ_STANDALONE there is a main() for compilers without libFuzzer: it
 * mutates the files it is given: `fuzz_resp RUNS SEED FILE...`.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How many bytes the scanner has searched for the end of a line. */
static size_t searched;

static void *
counted_memchr(const void *at, int byte, size_t n)
{
    const char *found = memchr(at, byte, n);
    if (byte == '\r')
        searched += found == NULL ? n : (size_t)(found - (const char *)at) + 1;
    return (void *)(uintptr_t)found;
}

#define memchr counted_memchr
#include "cp_resp.c" /* its statics too */
#undef memchr

#define MAX_INPUT 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
must(int condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "violated: %s\n", what);
        abort();
    }
}
#define MUST(CONDITION) must(CONDITION, #CONDITION)

typedef struct limits {
    uint32_t depth;
    int64_t bulk;
} limits;

/* A block of exactly n bytes. */
static char *
block(const char *data, size_t n)
{
    char *copy = malloc(n == 0 ? 1 : n);
    if (copy == NULL)
        abort();
    if (n != 0)
        memcpy(copy, data, n);
    return copy;
}

/* What scanning has told. */
typedef struct verdict {
    cp_status status;
    size_t off;
    cp_why why;
} verdict;

static verdict
scan_at_once(limits l, const char *data, size_t n)
{
    cp_scan s;
    cp_scan_init(&s, l.depth, l.bulk);
    char *copy = block(data, n);
    verdict v = {cp_scan_step(&s, copy, n), s.off, s.why};
    MUST(v.off <= n);
    MUST(s.depth <= l.depth);
    MUST(v.status == CP_E_PROTO || v.why == CP_WHY_NONE);
    free(copy);
    cp_scan_free(&s);
    return v;
}

/* Pieces of sizes that follow from `pattern`. Stops at the first answer. */
static verdict
scan_in_pieces(limits l, const char *data, size_t n, uint32_t pattern)
{
    cp_scan s;
    verdict v = {CP_AGAIN, 0, CP_WHY_NONE};
    size_t have = 0, steps = 0, before = searched;
    cp_scan_init(&s, l.depth, l.bulk);
    while (v.status == CP_AGAIN && have < n) {
        pattern = pattern * 1664525u + 1013904223u;
        size_t piece = 1 + (pattern >> 24) % (pattern & 1 ? 3 : 200);
        have = piece > n - have ? n : have + piece;
        char *copy = block(data, have);
        cp_status st = cp_scan_step(&s, copy, have);
        free(copy);
        MUST(s.off >= v.off && s.off <= have);
        MUST(s.body == 0 || (s.body <= have && s.body_len >= 0 && s.body_len <= l.bulk));
        v = (verdict){st, s.off, s.why};
        steps++;
    }
    MUST(searched - before <= have + steps); /* a CR at the end is looked at again */
    cp_scan_free(&s);
    return v;
}

/* The independent reader: the length of the value at p, 0 when it is cut or none. */
static const char *simple_value(limits l, const char *p, const char *stop, uint32_t depth);

static const char *
simple_line(const char *p, const char *stop)
{
    for (; p + 1 < stop; p++)
        if (p[0] == '\r' && p[1] == '\n')
            return p;
    return NULL;
}

static const char *
simple_values(limits l, const char *p, const char *stop, uint32_t depth, long long count)
{
    if (count > 0 && depth >= l.depth)
        return NULL;
    while (p != NULL && count-- > 0)
        p = simple_value(l, p, stop, depth + 1);
    return p;
}

static const char *
simple_value(limits l, const char *p, const char *stop, uint32_t depth)
{
    const char *cr = p < stop ? simple_line(p + 1, stop) : NULL;
    if (cr == NULL)
        return NULL;
    if (strchr("+-:_#,(", *p) != NULL && *p != '\0')
        return cr - p - 1 <= l.bulk ? cr + 2 : NULL;
    char *end;
    long long n = strtoll(p + 1, &end, 10);
    if (end != cr)
        return NULL;
    switch (*p) {
    case '$': case '!': case '=':
        if (n < 0)
            return n == -1 && *p == '$' ? cr + 2 : NULL;
        return n <= l.bulk && n + 2 <= stop - (cr + 2) ? cr + 2 + n + 2 : NULL;
    case '*': case '~': case '>':
        return simple_values(l, cr + 2, stop, depth, n);
    case '%':
        return simple_values(l, cr + 2, stop, depth, 2 * n);
    case '|':
        return simple_values(l, cr + 2, stop, depth, 2 * n + 1);
    default:
        return NULL;
    }
}

static void
check_request(const char *data, size_t n)
{
    size_t len = 0, name_len = 0, second_len = 0;
    const char *name = NULL, *second = NULL;
    char *copy = block(data, n);
    if (cp_scan_request(copy, n, &len, &name, &name_len, &second, &second_len) == CP_OK) {
        MUST(len <= n);
        MUST(name >= copy && name + name_len + 2 <= copy + len);
        MUST(second == NULL || second + second_len + 2 <= copy + len);
        verdict v = scan_at_once((limits){1, INT32_MAX}, copy, n);
        MUST(v.status == CP_OK && v.off == len);
    }
    free(copy);
}

/* Check the reply at the start; returns its length, 0 when there is no whole one. */
static size_t
check_reply(limits l, const char *data, size_t n, uint32_t pattern)
{
    verdict whole = scan_at_once(l, data, n);
    verdict pieces = scan_in_pieces(l, data, n, pattern);
    MUST(whole.status == pieces.status);
    MUST(whole.off == pieces.off);
    MUST(whole.why == pieces.why);
    if (whole.status != CP_OK)
        return 0;
    const char *end = simple_value(l, data, data + n, 0);
    MUST(end != NULL);
    MUST((size_t)(end - data) == whole.off);
    MUST(scan_at_once(l, data, whole.off - 1).status == CP_AGAIN);
    return whole.off;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int64_t bulks[] = {0, 7, 100, 4096, INT64_C(536870912)};
    if (size < 4 || size > MAX_INPUT)
        return 0;
    limits l = {data[0] % 40, bulks[data[1] % 5]};
    uint32_t pattern = (uint32_t)data[2] << 8 | data[3];
    const char *at = (const char *)data + 4, *stop = (const char *)data + size;
    check_request(at, (size_t)(stop - at));
    while (at < stop) {
        size_t n = check_reply(l, at, (size_t)(stop - at), pattern++);
        if (n == 0)
            break;
        at += n;
    }
    return 0;
}

#ifdef CP_FUZZ_STANDALONE

static size_t
mutate(uint8_t *data, size_t size, unsigned *seed)
{
    static const char alphabet[] = "$*+-:_#,(!=~%>|0123456789\r\n";
    for (int changes = 1 + rand_r(seed) % 4; changes > 0 && size > 4; changes--) {
        size_t at = (size_t)rand_r(seed) % size;
        switch (rand_r(seed) % 4) {
        case 0:
            data[at] = (uint8_t)rand_r(seed);
            break;
        case 1:
            data[at] = (uint8_t)alphabet[(size_t)rand_r(seed) % (sizeof alphabet - 1)];
            break;
        case 2:
            memmove(data + at, data + at + 1, --size - at);
            break;
        default:
            if (size < MAX_INPUT) {
                memmove(data + at + 1, data + at, size++ - at);
                data[at] = (uint8_t)alphabet[(size_t)rand_r(seed) % (sizeof alphabet - 1)];
            }
        }
    }
    return size;
}

int
main(int argc, char **argv)
{
    long runs = argc > 3 ? atol(argv[1]) : 0;
    unsigned seed = argc > 3 ? (unsigned)atol(argv[2]) : 0;
    static uint8_t original[MAX_INPUT], data[MAX_INPUT];
    for (int file = 3; file < argc; file++) {
        FILE *f = fopen(argv[file], "rb");
        if (f == NULL)
            return 2;
        size_t size = fread(original, 1, sizeof original, f);
        fclose(f);
        LLVMFuzzerTestOneInput(original, size);
        for (long run = 0; run < runs / (argc - 3); run++) {
            memcpy(data, original, size);
            LLVMFuzzerTestOneInput(data, mutate(data, size, &seed));
        }
    }
    return argc > 3 ? 0 : 2;
}

#endif
