/* UTF-8 of text that is held as code points of one size. Layer 1.
 *
 * `width` is the bytes of a code point in memory: 1, 2 or 4. No Python: the layer
 * above knows where its strings keep them.
 */
#ifndef CP_UTF8_H
#define CP_UTF8_H

#include <stddef.h>
#include <stdint.h>

static inline uint32_t
cp_utf8__at(const void *text, int width, size_t i)
{
    if (width == 1)
        return ((const uint8_t *)text)[i];
    if (width == 2)
        return ((const uint16_t *)text)[i];
    return ((const uint32_t *)text)[i];
}

static inline int
cp_utf8__is_surrogate(uint32_t code)
{
    return code >= 0xD800 && code <= 0xDFFF;
}

/* How many bytes n code points take, or -1 if one is a lone surrogate, for which
 * there is no UTF-8. */
static inline ptrdiff_t
cp_utf8_size(const void *text, int width, size_t n)
{
    ptrdiff_t size = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t code = cp_utf8__at(text, width, i);
        if (cp_utf8__is_surrogate(code))
            return -1;
        size += 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000);
    }
    return size;
}

/* Write n code points of which cp_utf8_size() was not -1; returns the end. */
static inline char *
cp_utf8_put(char *to, const void *text, int width, size_t n)
{
    uint8_t *out = (uint8_t *)to;
    for (size_t i = 0; i < n; i++) {
        uint32_t code = cp_utf8__at(text, width, i);
        if (code < 0x80) {
            *out++ = (uint8_t)code;
            continue;
        }
        if (code < 0x800) {
            *out++ = (uint8_t)(0xC0 | code >> 6);
        } else {
            if (code < 0x10000) {
                *out++ = (uint8_t)(0xE0 | code >> 12);
            } else {
                *out++ = (uint8_t)(0xF0 | code >> 18);
                *out++ = (uint8_t)(0x80 | (code >> 12 & 0x3F));
            }
            *out++ = (uint8_t)(0x80 | (code >> 6 & 0x3F));
        }
        *out++ = (uint8_t)(0x80 | (code & 0x3F));
    }
    return (char *)out;
}

#endif
