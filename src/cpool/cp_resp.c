/* The scanner of replies and requests, and the writer of headers. */
#include "cp_resp.h"

#include <stdlib.h>
#include <string.h>

/* No length of RESP has more digits: a header that has not ended by then is
 * none, and the few digits of a cut one may be looked at again. */
#define CP_LENGTH_LINE_MAX 22

void
cp_scan_init(cp_scan *s, uint32_t max_depth, int64_t max_bulk_bytes)
{
    memset(s, 0, sizeof *s);
    s->max_depth = max_depth;
    s->max_bulk_bytes = max_bulk_bytes;
    s->cap = CP_SCAN_INLINE_DEPTH;
    s->left = s->first_left;
}

void
cp_scan_free(cp_scan *s)
{
    if (s->left != s->first_left)
        free(s->left);
    s->left = s->first_left;
    s->cap = CP_SCAN_INLINE_DEPTH;
}

void
cp_scan_reset(cp_scan *s)
{
    s->off = s->line_off = s->body = 0;
    s->depth = 0;
    s->whole = 0;
    s->why = CP_WHY_NONE;
}

static cp_status
cp_scan__bad(cp_scan *s, cp_why why)
{
    s->why = why;
    return CP_E_PROTO;
}

/* The decimal number of a header at p, which ends with CR LF. *end is behind it. */
static cp_status
cp_scan__length(const char *p, const char *stop, int64_t *number, const char **end)
{
    const char *at = p;
    int64_t value = 0;
    int negative = 0;
    if (at < stop && *at == '-') {
        negative = 1;
        at++;
    }
    const char *digits = at;
    while (at < stop && (unsigned char)(*at - '0') <= 9) {
        if (at - digits >= 18)
            return CP_E_PROTO;
        value = value * 10 + (*at++ - '0');
    }
    if (at >= stop)
        return stop - p >= CP_LENGTH_LINE_MAX ? CP_E_PROTO : CP_AGAIN;
    if (*at != '\r' || at == digits)
        return CP_E_PROTO;
    if (at + 1 >= stop)
        return CP_AGAIN;
    if (at[1] != '\n')
        return CP_E_PROTO;
    *number = negative ? -value : value;
    *end = at + 2;
    return CP_OK;
}

/* The end of the line whose text begins at s->off + 1, *end behind its CR LF. The
 * limit holds for a whole line as for one that has not ended yet. */
static cp_status
cp_scan__line(cp_scan *s, const char *data, size_t n, size_t *end)
{
    size_t at = s->line_off > s->off ? s->line_off : s->off + 1;
    while (at < n) {
        const char *cr = memchr(data + at, '\r', n - at);
        if (cr == NULL) {
            at = n;
            break;
        }
        at = (size_t)(cr - data);
        if (at + 1 >= n)
            break;
        if (data[at + 1] == '\n') {
            if ((int64_t)(at - s->off) - 1 > s->max_bulk_bytes)
                return cp_scan__bad(s, CP_WHY_LIMIT);
            *end = at + 2;
            s->line_off = 0;
            return CP_OK;
        }
        at++;
    }
    s->line_off = at;
    if ((int64_t)(at - s->off) - 1 > s->max_bulk_bytes)
        return cp_scan__bad(s, CP_WHY_LIMIT);
    return CP_AGAIN;
}

/* An integer: sign and digits only, of any length a line may have. */
static int
cp_scan__is_integer(const char *p, const char *end)
{
    if (p < end && (*p == '-' || *p == '+'))
        p++;
    if (p == end)
        return 0;
    while (p < end)
        if ((unsigned char)(*p++ - '0') > 9)
            return 0;
    return 1;
}

static cp_status
cp_scan__text(cp_scan *s, const char *data, size_t n)
{
    size_t end = 0;
    char type = data[s->off];
    cp_status st = cp_scan__line(s, data, n, &end);
    if (st != CP_OK)
        return st;
    const char *from = data + s->off + 1, *to = data + end - 2;
    int good = 1;
    if (type == ':' || type == '(')
        good = cp_scan__is_integer(from, to);
    else if (type == '_')
        good = from == to;
    else if (type == '#')
        good = to - from == 1 && (*from == 't' || *from == 'f');
    else if (type == ',')
        good = from != to && memchr(from, '\0', (size_t)(to - from)) == NULL;
    if (!good)
        return cp_scan__bad(s, CP_WHY_LENGTH);
    s->off = end;
    return CP_OK;
}

static cp_status
cp_scan__string(cp_scan *s, const char *data, size_t n)
{
    int64_t len = 0;
    const char *body = NULL;
    char type = data[s->off];
    cp_status st = cp_scan__length(data + s->off + 1, data + n, &len, &body);
    if (st == CP_E_PROTO)
        return cp_scan__bad(s, CP_WHY_LENGTH);
    if (st != CP_OK)
        return st;
    if (len < 0) {
        if (len != -1 || type != '$')
            return cp_scan__bad(s, CP_WHY_LENGTH);
        s->off = (size_t)(body - data);
        return CP_OK;
    }
    if (len > s->max_bulk_bytes)
        return cp_scan__bad(s, CP_WHY_LIMIT);
    if (type == '=' && (len < 4 || (data + n - body >= 4 && body[3] != ':')))
        return cp_scan__bad(s, CP_WHY_LENGTH);
    size_t have = n - (size_t)(body - data), want = (size_t)len;
    if (have < want + 2) {
        if (have > want && body[want] != '\r')
            return cp_scan__bad(s, CP_WHY_ENDING);
        if (s->depth == 0 && s->off == 0 && type == '$') {
            s->body = (size_t)(body - data);
            s->body_len = len;
        }
        return CP_AGAIN;
    }
    if (body[want] != '\r' || body[want + 1] != '\n')
        return cp_scan__bad(s, CP_WHY_ENDING);
    s->off = (size_t)(body - data) + want + 2;
    return CP_OK;
}

static cp_status
cp_scan__open(cp_scan *s, int64_t values)
{
    if (s->depth >= s->max_depth)
        return cp_scan__bad(s, CP_WHY_DEPTH);
    if (s->depth == s->cap) {
        uint32_t cap = s->cap * 2;
        int64_t *left = malloc(cap * sizeof *left);
        if (left == NULL)
            return CP_E_NOMEM;
        memcpy(left, s->left, s->cap * sizeof *left);
        if (s->left != s->first_left)
            free(s->left);
        s->left = left;
        s->cap = cap;
    }
    s->left[s->depth++] = values;
    return CP_OK;
}

/* Sets *opened when values follow; a null or empty one is a value by itself. */
static cp_status
cp_scan__aggregate(cp_scan *s, const char *data, size_t n, int *opened)
{
    int64_t count = 0;
    const char *end = NULL;
    char type = data[s->off];
    if (type == '>' && s->depth > 0)
        return cp_scan__bad(s, CP_WHY_PUSH);
    cp_status st = cp_scan__length(data + s->off + 1, data + n, &count, &end);
    if (st == CP_E_PROTO || (st == CP_OK && count < 0 && !(count == -1 && type == '*')))
        return cp_scan__bad(s, CP_WHY_LENGTH);
    if (st != CP_OK)
        return st;
    if (type == '>' && count == 0)
        return cp_scan__bad(s, CP_WHY_PUSH);
    if (type == '%')
        count *= 2;
    if (type == '|')
        count = count * 2 + 1; /* the attribute and the value it belongs to */
    *opened = count > 0;
    if (count > 0) {
        st = cp_scan__open(s, count);
        if (st != CP_OK)
            return st;
    }
    s->off = (size_t)(end - data);
    return CP_OK;
}

/* Pass the short strings that stand one after another in the open aggregate, all
 * but its last value: most of what large replies are made of. Whatever is out of
 * the ordinary is left to the general way, which looks at the same bytes. */
static void
cp_scan__run(cp_scan *s, const char *data, size_t n)
{
    int64_t left = s->left[s->depth - 1];
    size_t off = s->off;
    while (left > 1 && n - off >= 8 && data[off] == '$') {
        const char *p = data + off + 1, *digits_end = p + 4;
        unsigned digit = (unsigned char)*p - '0';
        size_t len = 0, end;
        while (digit <= 9 && p < digits_end) {
            len = len * 10 + digit;
            digit = (unsigned char)*++p - '0';
        }
        end = (size_t)(p - data) + 2 + len;
        if (p == data + off + 1 || p[0] != '\r' || p[1] != '\n' || end + 2 > n ||
            (int64_t)len > s->max_bulk_bytes || data[end] != '\r' || data[end + 1] != '\n')
            break;
        off = end + 2;
        left--;
    }
    s->left[s->depth - 1] = left;
    s->off = off;
}

cp_status
cp_scan_step(cp_scan *s, const char *data, size_t n)
{
    s->body = 0;
    if (s->whole)
        return CP_OK;
    for (;;) {
        cp_status st;
        int opened = 0;
        if (s->off >= n)
            return CP_AGAIN;
        switch (data[s->off]) {
        case '$': case '=': case '!':
            st = cp_scan__string(s, data, n);
            break;
        case '*': case '~': case '%': case '>': case '|':
            st = cp_scan__aggregate(s, data, n, &opened);
            break;
        case '+': case '-': case ':': case '_': case '#': case ',': case '(':
            st = cp_scan__text(s, data, n);
            break;
        default:
            st = cp_scan__bad(s, CP_WHY_TYPE);
        }
        if (st != CP_OK)
            return st;
        while (!opened && s->depth > 0 && --s->left[s->depth - 1] == 0)
            s->depth--;
        if (s->depth == 0) {
            s->whole = 1;
            return CP_OK;
        }
        cp_scan__run(s, data, n);
    }
}

cp_status
cp_scan_request(const char *data, size_t n, size_t *len,
                const char **name, size_t *name_len,
                const char **second, size_t *second_len)
{
    const char *p = data, *stop = data + n;
    int64_t args = 0, size = 0;
    cp_status st;
    *second = NULL;
    *second_len = 0;
    if (n == 0)
        return CP_AGAIN;
    if (*p != '*')
        return CP_E_PROTO;
    st = cp_scan__length(p + 1, stop, &args, &p);
    if (st != CP_OK)
        return st;
    if (args < 1)
        return CP_E_PROTO;
    for (int64_t i = 0; i < args; i++) {
        if (p >= stop)
            return CP_AGAIN;
        if (*p != '$')
            return CP_E_PROTO;
        st = cp_scan__length(p + 1, stop, &size, &p);
        if (st != CP_OK)
            return st;
        if (size < 0)
            return CP_E_PROTO;
        if (stop - p < size + 2)
            return CP_AGAIN;
        if (p[size] != '\r' || p[size + 1] != '\n')
            return CP_E_PROTO;
        if (i == 0) {
            *name = p;
            *name_len = (size_t)size;
        } else if (i == 1) {
            *second = p;
            *second_len = (size_t)size;
        }
        p += size + 2;
    }
    *len = (size_t)(p - data);
    return CP_OK;
}

char *
cp_put_header(char *to, char type, uint64_t number)
{
    char digits[20];
    int n = 0;
    *to++ = type;
    if (number < 10) {
        *to++ = (char)('0' + number);
        *to++ = '\r';
        *to++ = '\n';
        return to;
    }
    do {
        digits[n++] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    while (n > 0)
        *to++ = digits[--n];
    *to++ = '\r';
    *to++ = '\n';
    return to;
}
