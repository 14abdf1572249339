/* cp_utf8: every width, every boundary, and what has no UTF-8. */
#include <string.h>

#include "cp_test.h"
#include "cp_utf8.h"

static int
encodes(const void *text, int width, size_t n, const char *expected)
{
    char out[64];
    size_t size = strlen(expected);
    memset(out, '#', sizeof out);
    return cp_utf8_size(text, width, n) == (ptrdiff_t)size &&
           cp_utf8_put(out, text, width, n) == out + size &&
           memcmp(out, expected, size) == 0 && out[size] == '#';
}

TEST(no_text_takes_no_bytes)
{
    CHECK(encodes("", 1, 0, ""));
}

TEST(text_of_one_byte_code_points_takes_one_or_two_bytes_each)
{
    const uint8_t text[] = {'a', 0x7F, 0x80, 0xE9, 0xFF};
    CHECK(encodes(text, 1, 5, "a\x7F\xC2\x80\xC3\xA9\xC3\xBF"));
}

TEST(text_of_two_byte_code_points_takes_up_to_three_bytes_each)
{
    const uint16_t text[] = {'a', 0x7FF, 0x800, 0x20AC, 0xD7FF, 0xE000, 0xFFFF};
    CHECK(encodes(text, 2, 7,
                  "a\xDF\xBF\xE0\xA0\x80\xE2\x82\xAC\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF"));
}

TEST(text_of_four_byte_code_points_takes_up_to_four_bytes_each)
{
    const uint32_t text[] = {'a', 0xFFFF, 0x10000, 0x1F600, 0x10FFFF};
    CHECK(encodes(text, 4, 5,
                  "a\xEF\xBF\xBF\xF0\x90\x80\x80\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF"));
}

TEST(a_lone_surrogate_has_no_utf8)
{
    const uint16_t narrow[] = {'a', 0xD800};
    const uint32_t wide[] = {0x1F600, 0xDFFF};
    CHECK_EQ(cp_utf8_size(narrow, 2, 2), -1);
    CHECK_EQ(cp_utf8_size(wide, 4, 2), -1);
}
