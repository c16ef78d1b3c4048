/* A SentencePiece vocabulary as flat tables, and the merging of text by it.
 *
 * A token's text is text[starts[i]..starts[i + 1]). Its rank says when a pair that makes it is merged: the lowest first, the
 * longer left part first among pairs that make the same token, then the leftmost. Tokens of rank HYP_NO_PIECE neither arise
 * from a merge nor take part in one. Nothing is listed but the tokens: whether two neighbours join is looked up by their text. */
#ifndef HYP_PIECES_H
#define HYP_PIECES_H

#include "common/hyp.h"

#define HYP_NO_PIECE UINT32_MAX

typedef struct {
    const uint8_t *text;
    const uint32_t *starts; /* [count + 1] */
    const uint32_t *ranks;  /* [count] */
    uint32_t count, longest;
    uint32_t *slots;       /* [slot_count]: a token's number + 1, or 0; a power of two, larger than count */
    uint32_t slot_count;
    uint64_t seed;         /* of the hash: no file knows it */
    const uint32_t *bytes; /* [256]: the token of a byte, or NULL if there are none */
    uint32_t unknown;      /* stands for characters that are no token, HYP_NO_PIECE if there is none */
    int words;             /* no token that arises has U+2581 after another character: each run of them starts a word */
} hyp_pieces;

/* Fill the slots from the other fields; the first token whose text is that of an earlier one, or HYP_NO_PIECE. */
uint32_t hyp_pieces_index(hyp_pieces *p);

/* The token with this text, or HYP_NO_PIECE. */
uint32_t hyp_pieces_find(const hyp_pieces *p, const uint8_t *text, size_t n);

/* Bytes of work space for a text of n bytes without a space in it; only what is used is touched. */
size_t hyp_pieces_work(size_t n);

/* Encode n < 2^31 bytes of UTF-8 to at most n ids. poll is asked every few milliseconds; nonzero ends it with HYP_CANCELLED.
 * HYP_ERROR_ARGUMENT: a character is no token and nothing stands for it. */
int hyp_pieces_encode(const hyp_pieces *p, const uint8_t *text, size_t n, int (*poll)(void *), void *work, uint32_t *ids, size_t *count);

#endif
