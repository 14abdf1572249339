/* cp_scan_request: commands that somebody else has packed. */
#include <stdlib.h>
#include <string.h>

#include "cp_resp.h"
#include "cp_test.h"

typedef struct request {
    size_t len, name_len, second_len;
    const char *name, *second;
} request;

static cp_status
scan(const char *data, size_t n, request *r)
{
    return cp_scan_request(data, n, &r->len, &r->name, &r->name_len, &r->second,
                           &r->second_len);
}

static int
is(const char *at, size_t len, const char *expected)
{
    return at != NULL && strlen(expected) == len && memcmp(at, expected, len) == 0;
}

TEST(name_and_second_argument_are_found)
{
    static const char data[] = "*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n";
    request r;
    CHECK_EQ(scan(data, sizeof data - 1, &r), CP_OK);
    CHECK_EQ(r.len, sizeof data - 1);
    CHECK(is(r.name, r.name_len, "CLIENT"));
    CHECK(is(r.second, r.second_len, "REPLY"));
}

TEST(a_command_alone_has_no_second_argument)
{
    request r;
    CHECK_EQ(scan("*1\r\n$4\r\nPING\r\n", 14, &r), CP_OK);
    CHECK(is(r.name, r.name_len, "PING"));
    CHECK(r.second == NULL);
    CHECK_EQ(r.second_len, 0);
}

TEST(empty_arguments_are_arguments)
{
    request r;
    CHECK_EQ(scan("*2\r\n$0\r\n\r\n$0\r\n\r\n", 16, &r), CP_OK);
    CHECK_EQ(r.name_len, 0);
    CHECK(r.second != NULL);
}

TEST(bytes_behind_a_command_are_the_next_one)
{
    static const char data[] = "*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
    request r;
    CHECK_EQ(scan(data, sizeof data - 1, &r), CP_OK);
    CHECK_EQ(r.len, 14);
    CHECK_EQ(scan(data + r.len, sizeof data - 1 - r.len, &r), CP_OK);
    CHECK(is(r.name, r.name_len, "GET"));
    CHECK(is(r.second, r.second_len, "a"));
}

TEST(a_cut_command_is_unfinished_at_every_byte)
{
    static const char data[] = "*2\r\n$3\r\nGET\r\n$12\r\na\r\n*1\r\n$1\r\nb\r\n";
    for (size_t cut = 0; cut < sizeof data - 1; cut++) {
        request r;
        char *copy = malloc(cut == 0 ? 1 : cut);
        memcpy(copy, data, cut);
        CHECK_EQ(scan(copy, cut, &r), CP_AGAIN);
        free(copy);
    }
}

TEST(what_is_no_command_is_refused)
{
    static const char *const bad[] = {
        "PING\r\n", "+OK\r\n", "*0\r\n", "*-1\r\n", "*x\r\n", "*1\r\n+PING\r\n",
        "*1\r\n:1\r\n", "*1\r\n$-1\r\n", "*1\r\n$4\r\nPINGX\r\n", "*1\r\n*0\r\n",
        "*1\r\n$4\r\nPING\n\n", "*1\r\n$4\r\nPING\rx", "*1\n$4\nPING\n", "\r\n", "*2\r\n$4\r\nPING\r\nx",
        "*99999999999999999999999\r\n", "*1\r\n$99999999999999999999\r\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        request r;
        size_t n = strlen(bad[i]);
        char *copy = malloc(n);
        memcpy(copy, bad[i], n);
        CHECK_EQ(scan(copy, n, &r), CP_E_PROTO);
        free(copy);
    }
}

TEST(a_huge_argument_that_has_not_come_is_unfinished)
{
    request r;
    static const char data[] = "*2\r\n$3\r\nSET\r\n$999999999999999999\r\nabc";
    CHECK_EQ(scan(data, sizeof data - 1, &r), CP_AGAIN);
    static const char many[] = "*999999999999999999\r\n$3\r\nSET\r\n";
    CHECK_EQ(scan(many, sizeof many - 1, &r), CP_AGAIN);
}
