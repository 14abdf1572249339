/* cp_keyslot: values the specification and servers give, and hash tags of all shapes. */
#include <stdlib.h>
#include <string.h>

#include "cp_keyslot.h"
#include "cp_test.h"

static unsigned
slot(const char *key)
{
    return cp_keyslot(key, strlen(key));
}

/* CRC16 (XMODEM) by its definition: bit by bit, without a table. */
static unsigned
crc16_by_bits(const unsigned char *data, size_t len)
{
    unsigned crc = 0;
    for (size_t i = 0; i < len; i++) {
        crc ^= (unsigned)data[i] << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 0x8000 ? (crc << 1 ^ 0x1021) & 0xFFFF : crc << 1;
    }
    return crc;
}

TEST(the_check_value_of_the_specification)
{
    CHECK_EQ(cp_crc16("123456789", 9), 0x31C3);
}

TEST(slots_that_servers_give)
{
    CHECK_EQ(slot(""), 0);
    CHECK_EQ(slot("123456789"), 0x31C3 & 16383);
    CHECK_EQ(slot("foo"), 12182);
    CHECK_EQ(slot("bar"), 5061);
    CHECK_EQ(slot("hello"), 866);
    CHECK_EQ(slot("a"), 15495);
}

TEST(each_entry_of_the_table_is_the_crc_of_its_byte)
{
    for (unsigned i = 0; i < 256; i++) {
        unsigned char byte = (unsigned char)i;
        CHECK_EQ(cp_crc16((char *)&byte, 1), crc16_by_bits(&byte, 1));
    }
}

TEST(any_bytes_have_the_crc_of_the_definition)
{
    unsigned char key[300];
    srand(1);
    for (int round = 0; round < cp_test_rounds(2000); round++) {
        size_t len = (size_t)rand() % sizeof key;
        for (size_t i = 0; i < len; i++)
            key[i] = (unsigned char)rand();
        CHECK_EQ(cp_crc16((char *)key, len), crc16_by_bits(key, len));
        CHECK(cp_keyslot((char *)key, len) < CP_KEYSLOTS);
    }
}

TEST(of_a_key_with_a_hash_tag_only_the_tag_counts)
{
    CHECK_EQ(slot("{user1000}.following"), slot("user1000"));
    CHECK_EQ(slot("{user1000}.followers"), slot("user1000"));
    CHECK_EQ(slot("{user1000}"), slot("user1000"));
    CHECK_EQ(slot("following.{user1000}"), slot("user1000"));
}

TEST(the_tag_ends_at_the_first_brace_after_the_first_one)
{
    CHECK_EQ(slot("foo{{bar}}zap"), slot("{bar"));
    CHECK_EQ(slot("foo{bar}{zap}"), slot("bar"));
    CHECK_EQ(slot("a}b{c}d"), slot("c"));
    CHECK_EQ(slot("}{a}"), slot("a"));
    CHECK_EQ(slot("{a}}"), slot("a"));
}

TEST(without_a_whole_tag_or_with_an_empty_one_the_whole_key_counts)
{
    const char *keys[] = {"foo{}{bar}", "{}", "{", "}", "{a", "a}", "}a{", "{}a", "a{}", "}{"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        CHECK_EQ(slot(keys[i]),
                 crc16_by_bits((const unsigned char *)keys[i], strlen(keys[i])) & 16383);
}

TEST(zero_bytes_are_bytes_as_others)
{
    CHECK_EQ(cp_keyslot("\0{a\0b}", 6), cp_keyslot("a\0b", 3));
    CHECK(cp_keyslot("a\0b", 3) != cp_keyslot("a", 1));
    CHECK_EQ(cp_keyslot("\0", 1), 0);
}

TEST(nothing_is_read_behind_the_key)
{
    /* Of its own memory, so that a sanitizer sees one byte too many. */
    const char *keys[] = {"{", "a{", "{a", "a{b}"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        size_t len = strlen(keys[i]);
        char *copy = malloc(len);
        memcpy(copy, keys[i], len);
        CHECK_EQ(cp_keyslot(copy, len), slot(keys[i]));
        free(copy);
    }
    CHECK_EQ(cp_keyslot("{a}", 2), slot("{a"));
}
