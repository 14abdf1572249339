/* cp_resp: every type, every cut, every limit, and what malformed bytes are told. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cp_faults.h"
#include "cp_resp.h"
#include "cp_test.h"

#define MAX_DEPTH 32
#define MAX_BULK 4096

/* A copy without a byte behind it, so that a sanitizer sees a read past the end. */
static char *
exactly(const char *data, size_t n)
{
    char *copy = malloc(n == 0 ? 1 : n);
    if (n != 0)
        memcpy(copy, data, n);
    return copy;
}

/* Scan data[0..n) at once; *length is what the scanner says of it. */
static cp_status
scan(const char *data, size_t n, size_t *length, cp_why *why)
{
    cp_scan s;
    cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
    char *copy = exactly(data, n);
    cp_status st = cp_scan_step(&s, copy, n);
    *length = s.off;
    *why = s.why;
    free(copy);
    cp_scan_free(&s);
    return st;
}

/* The same, but the scanner first sees data[0..cut). */
static cp_status
scan_cut(const char *data, size_t n, size_t cut, size_t *length, cp_why *why)
{
    cp_scan s;
    cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
    char *head = exactly(data, cut), *copy = exactly(data, n);
    cp_status st = cp_scan_step(&s, head, cut);
    CHECK(s.off <= cut);
    free(head);
    if (st == CP_AGAIN)
        st = cp_scan_step(&s, copy, n);
    *length = s.off;
    *why = s.why;
    free(copy);
    cp_scan_free(&s);
    return st;
}

/* The same, byte by byte. */
static cp_status
scan_bytewise(const char *data, size_t n, size_t *length, cp_why *why)
{
    cp_scan s;
    cp_status st = CP_AGAIN;
    cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
    for (size_t have = 0; have <= n && st == CP_AGAIN; have++) {
        char *copy = exactly(data, have);
        st = cp_scan_step(&s, copy, have);
        CHECK(s.off <= have);
        free(copy);
    }
    *length = s.off;
    *why = s.why;
    cp_scan_free(&s);
    return st;
}

static void
check_whole(const char *data, size_t n)
{
    size_t length;
    cp_why why;
    CHECK_EQ(scan(data, n, &length, &why), CP_OK);
    CHECK_EQ(length, n);
    CHECK_EQ(scan_bytewise(data, n, &length, &why), CP_OK);
    CHECK_EQ(length, n);
    for (size_t cut = 0; cut < n; cut++) {
        CHECK_EQ(scan(data, cut, &length, &why), CP_AGAIN);
        CHECK_EQ(scan_cut(data, n, cut, &length, &why), CP_OK);
        CHECK_EQ(length, n);
    }
}

static void
check_bad(const char *data, size_t n, cp_why expected)
{
    size_t length;
    cp_why why;
    CHECK_EQ(scan(data, n, &length, &why), CP_E_PROTO);
    CHECK_EQ(why, expected);
    CHECK_EQ(scan_bytewise(data, n, &length, &why), CP_E_PROTO);
    CHECK_EQ(why, expected);
    for (size_t cut = 0; cut < n; cut++) {
        CHECK_EQ(scan_cut(data, n, cut, &length, &why), CP_E_PROTO);
        CHECK_EQ(why, expected);
    }
}

#define WHOLE(LITERAL) check_whole(LITERAL, sizeof LITERAL - 1)
#define BAD(LITERAL, WHY) check_bad(LITERAL, sizeof LITERAL - 1, WHY)

TEST(lines_of_every_type_are_replies)
{
    WHOLE("+OK\r\n");
    WHOLE("+\r\n");
    WHOLE("-ERR no\r\n");
    WHOLE("-\r\n");
    WHOLE(":0\r\n");
    WHOLE(":-9223372036854775808\r\n");
    WHOLE(":+12\r\n");
    WHOLE("(3492890328409238509324850943850943825024385\r\n");
    WHOLE("(-1\r\n");
    WHOLE("_\r\n");
    WHOLE("#t\r\n");
    WHOLE("#f\r\n");
    WHOLE(",1.23\r\n");
    WHOLE(",inf\r\n");
    WHOLE(",-inf\r\n");
    WHOLE(",nan\r\n");
}

TEST(strings_of_every_type_are_replies)
{
    WHOLE("$5\r\nhello\r\n");
    WHOLE("$0\r\n\r\n");
    WHOLE("$-1\r\n");
    WHOLE("$4\r\n\r\n\r\n\r\n");
    WHOLE("$3\r\n\0\xff\r\r\n");
    WHOLE("=7\r\ntxt:abc\r\n");
    WHOLE("=4\r\nmkd:\r\n");
    WHOLE("!5\r\nERR x\r\n");
    WHOLE("!0\r\n\r\n");
}

TEST(aggregates_of_every_type_are_replies)
{
    WHOLE("*0\r\n");
    WHOLE("*-1\r\n");
    WHOLE("*3\r\n:1\r\n$1\r\na\r\n+b\r\n");
    WHOLE("~2\r\n:1\r\n:2\r\n");
    WHOLE("~0\r\n");
    WHOLE("%0\r\n");
    WHOLE("%2\r\n+a\r\n:1\r\n+b\r\n*2\r\n_\r\n#t\r\n");
    WHOLE(">2\r\n+message\r\n$1\r\nx\r\n");
    WHOLE(">1\r\n*0\r\n");
    WHOLE("*2\r\n*0\r\n*1\r\n*1\r\n:1\r\n");
    WHOLE("*2\r\n*-1\r\n$-1\r\n");
}

TEST(runs_of_short_strings_are_replies)
{
    WHOLE("*5\r\n$0\r\n\r\n$1\r\na\r\n$2\r\nbc\r\n$-1\r\n$3\r\ndef\r\n");
    WHOLE("%2\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$12\r\n0123456789ab\r\n");
    WHOLE("*2\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n*2\r\n$1\r\na\r\n:1\r\n");
    WHOLE("*3\r\n$0004\r\nabcd\r\n$00004\r\nabcd\r\n+x\r\n");
    WHOLE("*3\r\n$2\r\n\r\n\r\n$4\r\n$1\r\n\r\n$1\r\n\n\r\n");
    WHOLE(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nd\r\n");
}

TEST(a_fault_in_a_run_of_short_strings_is_met)
{
    BAD("*4\r\n$1\r\na\r\n$1\r\nbc\r\n$1\r\nd\r\n$1\r\ne\r\n", CP_WHY_ENDING);
    BAD("*4\r\n$1\r\na\r\n$1\r\nb\n\n$1\r\nd\r\n$1\r\ne\r\n", CP_WHY_ENDING);
    BAD("*4\r\n$1\r\na\r\n$1\r\nb\rx$1\r\nd\r\n$1\r\ne\r\n", CP_WHY_ENDING);
    BAD("*4\r\n$1\r\na\r\n$\r\n$1\r\nd\r\n$1\r\ne\r\n", CP_WHY_LENGTH);
    BAD("*4\r\n$1\r\na\r\n$1a\r\n$1\r\nd\r\n$1\r\ne\r\n", CP_WHY_LENGTH);
    BAD("*4\r\n$1\r\na\r\n$1\rx$1\r\nd\r\n$1\r\ne\r\n", CP_WHY_LENGTH);
    BAD("*4\r\n$1\r\na\r\n$\r\n\r\n$1\r\nd\r\n$1\r\ne\r\n", CP_WHY_LENGTH);
    BAD("*4\r\n$1\r\na\r\n$1\rxb\r\n$1\r\nd\r\n$1\r\ne\r\n", CP_WHY_LENGTH);
    BAD("*4\r\n$1\r\na\r\n$1x\nb\r\n$1\r\nd\r\n$1\r\ne\r\n", CP_WHY_LENGTH);
    BAD("*4\r\n$1\r\na\r\n$-2\r\n$1\r\nd\r\n$1\r\ne\r\n", CP_WHY_LENGTH);
    BAD("*4\r\n$1\r\na\r\n$4097\r\n", CP_WHY_LIMIT);
    BAD("*4\r\n$1\r\na\r\nx", CP_WHY_TYPE);
}

TEST(attributes_belong_to_the_value_behind_them)
{
    WHOLE("|1\r\n+ttl\r\n:3600\r\n+value\r\n");
    WHOLE("|0\r\n+value\r\n");
    WHOLE("*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n:2\r\n");
    WHOLE("|1\r\n+a\r\n+b\r\n|1\r\n+c\r\n+d\r\n*1\r\n:1\r\n");
    WHOLE("|1\r\n|1\r\n+a\r\n+b\r\n+key\r\n+value\r\n:1\r\n");
}

TEST(a_line_may_hold_a_lone_cr_or_lf)
{
    WHOLE("+a\rb\r\n");
    WHOLE("+a\nb\r\n");
    WHOLE("+a\r\r\n");
    WHOLE("-\r\r\r\n");
}

TEST(bytes_that_start_no_reply_are_refused)
{
    for (int byte = 0; byte < 256; byte++) {
        char first = (char)byte;
        size_t length;
        cp_why why;
        if (byte != 0 && strchr("$=!*~%>|+-:_#,(", byte) != NULL)
            continue;
        CHECK_EQ(scan(&first, 1, &length, &why), CP_E_PROTO);
        CHECK_EQ(why, CP_WHY_TYPE);
    }
    BAD("*1\r\nx", CP_WHY_TYPE);
    BAD("*2\r\n:1\r\nx", CP_WHY_TYPE);
}

TEST(lengths_that_are_none_are_refused)
{
    BAD("$x\r\n", CP_WHY_LENGTH);
    BAD("$\r\n", CP_WHY_LENGTH);
    BAD("$-\r\n", CP_WHY_LENGTH);
    BAD("$+5\r\n", CP_WHY_LENGTH);
    BAD("$ 5\r\n", CP_WHY_LENGTH);
    BAD("$5 \r\n", CP_WHY_LENGTH);
    BAD("$5\n", CP_WHY_LENGTH);
    BAD("$5\rx", CP_WHY_LENGTH);
    BAD("$--1\r\n", CP_WHY_LENGTH);
    BAD("$0x10\r\n", CP_WHY_LENGTH);
    BAD("*1_0\r\n", CP_WHY_LENGTH);
    BAD("%1.0\r\n", CP_WHY_LENGTH);
    BAD("$00000000000000000000000000005\r\n", CP_WHY_LENGTH);
    BAD("*9999999999999999999\r\n", CP_WHY_LENGTH);
    BAD("$18446744073709551621\r\n", CP_WHY_LENGTH);
}

TEST(negative_lengths_are_refused_but_for_the_two_nulls)
{
    BAD("$-2\r\n", CP_WHY_LENGTH);
    BAD("*-2\r\n", CP_WHY_LENGTH);
    BAD("=-1\r\n", CP_WHY_LENGTH);
    BAD("!-1\r\n", CP_WHY_LENGTH);
    BAD("~-1\r\n", CP_WHY_LENGTH);
    BAD("%-1\r\n", CP_WHY_LENGTH);
    BAD(">-1\r\n", CP_WHY_LENGTH);
    BAD("|-1\r\n", CP_WHY_LENGTH);
    BAD("*-999999999999999999\r\n", CP_WHY_LENGTH);
}

TEST(numbers_and_words_that_are_none_are_refused)
{
    BAD(":\r\n", CP_WHY_LENGTH);
    BAD(":1x\r\n", CP_WHY_LENGTH);
    BAD(":-\r\n", CP_WHY_LENGTH);
    BAD(":1.0\r\n", CP_WHY_LENGTH);
    BAD("(\r\n", CP_WHY_LENGTH);
    BAD("(12a\r\n", CP_WHY_LENGTH);
    BAD("#\r\n", CP_WHY_LENGTH);
    BAD("#x\r\n", CP_WHY_LENGTH);
    BAD("#tt\r\n", CP_WHY_LENGTH);
    BAD("_x\r\n", CP_WHY_LENGTH);
    BAD(",\r\n", CP_WHY_LENGTH);
    BAD(",1\0x\r\n", CP_WHY_LENGTH);
}

TEST(a_verbatim_string_has_a_format_of_three_bytes)
{
    BAD("=3\r\ntxt\r\n", CP_WHY_LENGTH);
    BAD("=0\r\n\r\n", CP_WHY_LENGTH);
    BAD("=8\r\ntext:abc\r\n", CP_WHY_LENGTH);
    WHOLE("=8\r\ntxt:\r\n\r\n\r\n");
}

TEST(a_string_that_does_not_end_where_it_should_is_refused)
{
    BAD("$3\r\nabcd\r\n", CP_WHY_ENDING);
    BAD("$3\r\nabc\n\n", CP_WHY_ENDING);
    BAD("$3\r\nabc\rx", CP_WHY_ENDING);
    BAD("=7\r\ntxt:abcd\r\n", CP_WHY_ENDING);
    BAD("!1\r\nab\r\n", CP_WHY_ENDING);
    BAD("*1\r\n$1\r\nab\r\n", CP_WHY_ENDING);
}

TEST(a_push_stands_alone_and_is_not_empty)
{
    BAD("*1\r\n>1\r\n+a\r\n", CP_WHY_PUSH);
    BAD(">1\r\n>1\r\n+a\r\n", CP_WHY_PUSH);
    BAD("|1\r\n+a\r\n+b\r\n>1\r\n+a\r\n", CP_WHY_PUSH);
    BAD(">0\r\n", CP_WHY_PUSH);
}

TEST(a_string_above_the_limit_is_refused_by_its_header)
{
    BAD("$4097\r\n", CP_WHY_LIMIT);
    BAD("$999999999999999999\r\n", CP_WHY_LIMIT);
    BAD("*1\r\n=4097\r\n", CP_WHY_LIMIT);
    BAD("!5000\r\n", CP_WHY_LIMIT);
}

TEST(a_string_above_the_limit_is_refused_although_it_is_at_hand)
{
    static char data[2 * MAX_BULK];
    int head = snprintf(data, sizeof data, "*3\r\n$1\r\na\r\n$%d\r\n", MAX_BULK + 1);
    size_t n = (size_t)head + MAX_BULK + 3, length;
    cp_why why;
    memset(data + head, 'x', MAX_BULK + 1);
    memcpy(data + n - 2, "\r\n", 2);
    CHECK_EQ(scan(data, n, &length, &why), CP_E_PROTO);
    CHECK_EQ(why, CP_WHY_LIMIT);
}

TEST(a_string_at_the_limit_is_a_reply)
{
    char data[MAX_BULK + 16];
    int head = snprintf(data, sizeof data, "$%d\r\n", MAX_BULK);
    size_t n = (size_t)head + MAX_BULK + 2, length;
    cp_why why;
    memset(data + head, 'x', MAX_BULK);
    memcpy(data + n - 2, "\r\n", 2);
    CHECK_EQ(scan(data, n, &length, &why), CP_OK);
    CHECK_EQ(length, n);
}

/* `n` bytes of a line without an end, in pieces of `piece` bytes. */
static cp_status
scan_endless_line(size_t n, size_t piece, cp_why *why)
{
    char *data = malloc(n);
    cp_scan s;
    cp_status st = CP_AGAIN;
    memset(data, 'x', n);
    data[0] = '+';
    cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
    for (size_t have = piece; have <= n && st == CP_AGAIN; have += piece)
        st = cp_scan_step(&s, data, have);
    *why = s.why;
    free(data);
    return st;
}

TEST(a_line_without_an_end_is_refused_at_the_limit)
{
    cp_why why;
    CHECK_EQ(scan_endless_line(2 * MAX_BULK, 1, &why), CP_E_PROTO);
    CHECK_EQ(why, CP_WHY_LIMIT);
    CHECK_EQ(scan_endless_line(2 * MAX_BULK, 1000, &why), CP_E_PROTO);
    CHECK_EQ(why, CP_WHY_LIMIT);
    CHECK_EQ(scan_endless_line(MAX_BULK, 1, &why), CP_AGAIN);
}

TEST(a_line_above_the_limit_is_refused_however_it_came_in)
{
    static char data[3 * MAX_BULK];
    size_t length;
    cp_why why;
    memset(data, 'x', sizeof data);
    data[0] = '+';
    memcpy(data + sizeof data - 2, "\r\n", 2);
    CHECK_EQ(scan_bytewise(data, sizeof data, &length, &why), CP_E_PROTO);
    CHECK_EQ(scan(data, sizeof data, &length, &why), CP_E_PROTO);
    CHECK_EQ(why, CP_WHY_LIMIT);
}

TEST(a_line_at_the_limit_is_a_reply_and_one_byte_more_is_none)
{
    static char data[MAX_BULK + 16];
    memset(data, 'x', sizeof data);
    data[0] = '-';
    memcpy(data + 1 + MAX_BULK, "\r\n", 2);
    check_whole(data, 1 + MAX_BULK + 2);
    data[1 + MAX_BULK] = 'x';
    memcpy(data + 2 + MAX_BULK, "\r\n", 2);
    check_bad(data, 2 + MAX_BULK + 2, CP_WHY_LIMIT);
}

/* `levels` arrays of one value, around ":1". Returns its length. */
static size_t
nested(char *to, int levels)
{
    size_t n = 0;
    for (int i = 0; i < levels; i++, n += 4)
        memcpy(to + n, "*1\r\n", 4);
    memcpy(to + n, ":1\r\n", 4);
    return n + 4;
}

TEST(depth_is_limited)
{
    char data[4 * (MAX_DEPTH + 3)];
    check_whole(data, nested(data, MAX_DEPTH));
    check_bad(data, nested(data, MAX_DEPTH + 1), CP_WHY_DEPTH);
    BAD("|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n"
        "|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n"
        "|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n",
        CP_WHY_DEPTH);
}

TEST(a_depth_of_nothing_allows_values_and_empty_aggregates_only)
{
    cp_scan s;
    cp_scan_init(&s, 0, MAX_BULK);
    CHECK_EQ(cp_scan_step(&s, ":1\r\n", 4), CP_OK);
    cp_scan_reset(&s);
    CHECK_EQ(cp_scan_step(&s, "*1\r\n", 4), CP_E_PROTO);
    CHECK_EQ(s.why, CP_WHY_DEPTH);
    cp_scan_free(&s);
}

TEST(no_memory_for_the_stack_can_be_tried_again)
{
    char data[4 * (MAX_DEPTH + 3)];
    size_t n = nested(data, MAX_DEPTH);
    cp_scan s;
    cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
    for (int failures = 0; failures < 2; failures++) {
        fault_clear();
        fault_errno(FAULT_ALLOC, ENOMEM);
        CHECK_EQ(cp_scan_step(&s, data, n), CP_E_NOMEM);
        CHECK_EQ(fault_left(FAULT_ALLOC), 0);
    }
    CHECK_EQ(cp_scan_step(&s, data, n), CP_OK);
    CHECK_EQ(s.off, n);
    cp_scan_free(&s);
}

TEST(a_count_of_any_size_allocates_nothing)
{
    static const char *const counts[] = {
        "*999999999999999999\r\n:1\r\n", "%999999999999999999\r\n:1\r\n",
        "~999999999999999999\r\n:1\r\n", ">999999999999999999\r\n:1\r\n",
        "|999999999999999999\r\n:1\r\n",
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        cp_scan s;
        cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
        fault_clear();
        CHECK_EQ(cp_scan_step(&s, counts[i], strlen(counts[i])), CP_AGAIN);
        CHECK_EQ(fault_count(FAULT_ALLOC), 0);
        cp_scan_free(&s);
    }
}

TEST(two_replies_are_told_apart)
{
    static const char data[] = "*1\r\n:1\r\n$2\r\nab\r\n_\r\n";
    const size_t lengths[] = {8, 8, 3};
    const char *at = data;
    cp_scan s;
    cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(cp_scan_step(&s, at, (size_t)(data + sizeof data - 1 - at)), CP_OK);
        CHECK_EQ(s.off, lengths[i]);
        at += s.off;
        cp_scan_reset(&s);
    }
    CHECK(*at == '\0');
    cp_scan_free(&s);
}

TEST(a_reply_that_was_found_stays_found)
{
    cp_scan s;
    cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
    CHECK_EQ(cp_scan_step(&s, ":1\r\n", 4), CP_OK);
    CHECK_EQ(cp_scan_step(&s, ":1\r\n:2\r\n", 8), CP_OK);
    CHECK_EQ(s.off, 4);
    cp_scan_reset(&s);
    CHECK_EQ(cp_scan_step(&s, ":", 1), CP_AGAIN);
    cp_scan_free(&s);
}

TEST(a_reset_forgets_a_reply_that_was_given_up)
{
    cp_scan s;
    cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
    CHECK_EQ(cp_scan_step(&s, "*2\r\n*3\r\n+abc", 12), CP_AGAIN);
    cp_scan_reset(&s);
    CHECK_EQ(cp_scan_step(&s, "+abc\r\n", 6), CP_OK);
    CHECK_EQ(s.off, 6);
    cp_scan_reset(&s);
    CHECK_EQ(cp_scan_step(&s, "x", 1), CP_E_PROTO);
    cp_scan_reset(&s);
    CHECK_EQ(s.why, CP_WHY_NONE);
    CHECK_EQ(cp_scan_step(&s, "+abc\r\n", 6), CP_OK);
    cp_scan_free(&s);
}

TEST(an_unfinished_top_level_string_tells_where_it_begins)
{
    cp_scan s;
    cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
    CHECK_EQ(cp_scan_step(&s, "$1000\r", 6), CP_AGAIN);
    CHECK_EQ(s.body, 0);
    CHECK_EQ(cp_scan_step(&s, "$1000\r\n", 7), CP_AGAIN);
    CHECK_EQ(s.body, 7);
    CHECK_EQ(s.body_len, 1000);
    CHECK_EQ(cp_scan_step(&s, "$1000\r\nabc", 10), CP_AGAIN);
    CHECK_EQ(s.body, 7);
    cp_scan_reset(&s);
    CHECK_EQ(cp_scan_step(&s, "*1\r\n$1000\r\nabc", 14), CP_AGAIN);
    CHECK_EQ(s.body, 0); /* not at the top */
    cp_scan_reset(&s);
    CHECK_EQ(cp_scan_step(&s, "=1000\r\ntxt:", 11), CP_AGAIN);
    CHECK_EQ(s.body, 0); /* no plain string */
    cp_scan_free(&s);
}

TEST(a_byte_is_looked_at_once_however_it_came_in)
{
    /* A scanner that began anew with each piece would need 10^10 steps. */
    size_t n = 200000, length;
    char *data = malloc(n * 4 + 16);
    cp_why why;
    int head = snprintf(data, 16, "*%zu\r\n", n);
    for (size_t i = 0; i < n; i++)
        memcpy(data + head + 4 * i, ":1\r\n", 4);
    cp_scan s;
    cp_status st = CP_AGAIN;
    cp_scan_init(&s, MAX_DEPTH, MAX_BULK);
    size_t whole = (size_t)head + n * 4;
    for (size_t have = 1; have < whole; have++)
        if ((st = cp_scan_step(&s, data, have)) != CP_AGAIN)
            break;
    CHECK_EQ(st, CP_AGAIN);
    CHECK_EQ(cp_scan_step(&s, data, whole), CP_OK);
    CHECK_EQ(scan(data, whole, &length, &why), CP_OK);
    free(data);
}

TEST(headers_are_written_as_they_are_read)
{
    const uint64_t numbers[] = {0, 1, 9, 10, 99, 100, 65536, INT64_MAX, UINT64_MAX};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char expected[32], got[CP_HEADER_MAX];
        int n = snprintf(expected, sizeof expected, "$%llu\r\n",
                         (unsigned long long)numbers[i]);
        char *end = cp_put_header(got, '$', numbers[i]);
        CHECK_EQ(end - got, n);
        CHECK(memcmp(got, expected, (size_t)n) == 0);
    }
}
