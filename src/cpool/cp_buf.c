/* Growth and shrinking of cp_buf. */
#include "cp_buf.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CP_BUF_FIRST 1024

void
cp_buf_free(cp_buf *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}

static cp_status
cp_buf__resize(cp_buf *b, size_t cap)
{
    char *data = realloc(b->data, cap);
    if (data == NULL)
        return CP_E_NOMEM;
    b->data = data;
    b->cap = cap;
    return CP_OK;
}

cp_status
cp_buf_reserve(cp_buf *b, size_t room)
{
    size_t size = cp_buf_size(b), cap = b->cap < CP_BUF_FIRST ? CP_BUF_FIRST : b->cap;
    if (b->data != NULL && cp_buf_room(b) >= room)
        return CP_OK;
    if (room > SIZE_MAX / 4 - size)
        return CP_E_NOMEM;
    /* Moving is paid by the bytes consumed since the last move. */
    if (b->data != NULL && b->pos >= size && b->cap - size >= room) {
        memmove(b->data, b->data + b->pos, size);
        b->pos = 0;
        b->len = size;
        return CP_OK;
    }
    while (cap - b->len < room || cap < b->len)
        cap *= 2;
    return cp_buf__resize(b, cap);
}

void
cp_buf_shrink(cp_buf *b, size_t keep_bytes)
{
    if (cp_buf_size(b) != 0 || b->cap <= keep_bytes)
        return;
    b->pos = b->len = 0;
    if (keep_bytes == 0)
        cp_buf_free(b);
    else
        (void)cp_buf__resize(b, keep_bytes);
}
