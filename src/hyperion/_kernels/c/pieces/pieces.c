#include "pieces/pieces.h"

/* ---- the table ----------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
}

static uint64_t hash_of(const hyp_pieces *p, const uint8_t *text, size_t n)
{
    uint64_t h = mix(p->seed, n);
    for (; n >= 8; text += 8, n -= 8) {
        uint64_t v;
        memcpy(&v, text, 8);
        h = mix(h, v);
    }
    uint64_t rest = 0;
    for (size_t i = 0; i < n; i++) rest = rest << 8 | text[i];
    h = mix(mix(h, rest), p->seed);
    return h ^ (h >> 32);
}

uint32_t hyp_pieces_index(hyp_pieces *p)
{
    uint32_t repeated = HYP_NO_PIECE;
    memset(p->slots, 0, p->slot_count * sizeof *p->slots);
    p->longest = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        const uint32_t n = p->starts[i + 1] - p->starts[i];
        if (n > p->longest) p->longest = n;
        if (repeated == HYP_NO_PIECE && hyp_pieces_find(p, p->text + p->starts[i], n) != HYP_NO_PIECE) repeated = i;
        size_t at = hash_of(p, p->text + p->starts[i], n) & (p->slot_count - 1);
        while (p->slots[at]) at = (at + 1) & (p->slot_count - 1);
        p->slots[at] = i + 1;
    }
    return repeated;
}

uint32_t hyp_pieces_find(const hyp_pieces *p, const uint8_t *text, size_t n)
{
    if (n > p->longest) return HYP_NO_PIECE;
    size_t at = hash_of(p, text, n) & (p->slot_count - 1);
    for (; p->slots[at]; at = (at + 1) & (p->slot_count - 1)) {
        const uint32_t i = p->slots[at] - 1, start = p->starts[i];
        if (p->starts[i + 1] - start == n && memcmp(p->text + start, text, n) == 0) return i;
    }
    return HYP_NO_PIECE;
}

/* ---- merging ------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t start, bytes; /* of the word; no bytes: merged into the one before */
    uint32_t previous, next;
    uint32_t piece, joins;
} symbol;

/* Two neighbours that make a token: the first symbol, its bytes and those of both when they met. */
typedef struct {
    uint32_t rank, left, both, first, piece;
} pair;

enum { STEPS = 1 << 16 }; /* from one poll to the next */
enum { PAIRS_PER_SYMBOL = 3 }; /* each neighbourhood once, and two new ones for every merge */

typedef struct {
    const hyp_pieces *p;
    const uint8_t *text;
    symbol *symbols;
    pair *heap;
    size_t n, pairs;
    int (*poll)(void *);
    size_t *steps; /* of all words */
} word;

static int cancelled(word *w)
{
    return ++*w->steps % STEPS == 0 && w->poll(NULL);
}

size_t hyp_pieces_work(size_t n)
{
    return n * (sizeof(symbol) + PAIRS_PER_SYMBOL * sizeof(pair));
}

static int before(const pair *a, const pair *b)
{
    if (a->rank != b->rank) return a->rank < b->rank;
    return a->left != b->left ? a->left > b->left : a->first < b->first;
}

static void push(word *w, pair new)
{
    size_t at = w->pairs++;
    for (; at && before(&new, &w->heap[(at - 1) / 2]); at = (at - 1) / 2) w->heap[at] = w->heap[(at - 1) / 2];
    w->heap[at] = new;
}

static pair pop(word *w)
{
    const pair top = w->heap[0], last = w->heap[--w->pairs];
    size_t at = 0;
    for (size_t child = 1; child < w->pairs; child = 2 * at + 1) {
        if (child + 1 < w->pairs && before(&w->heap[child + 1], &w->heap[child])) child++;
        if (!before(&w->heap[child], &last)) break;
        w->heap[at] = w->heap[child];
        at = child;
    }
    w->heap[at] = last;
    return top;
}

/* Note what a symbol and the next one make. */
static void meet(word *w, uint32_t first)
{
    const symbol *left = &w->symbols[first];
    if (left->next == HYP_NO_PIECE) return;
    const symbol *right = &w->symbols[left->next];
    if (!left->joins || !right->joins) return;
    const uint32_t both = left->bytes + right->bytes, piece = hyp_pieces_find(w->p, w->text + left->start, both);
    if (piece == HYP_NO_PIECE || w->p->ranks[piece] == HYP_NO_PIECE) return;
    push(w, (pair){w->p->ranks[piece], left->bytes, both, first, piece});
}

static void add(word *w, size_t start, size_t bytes, uint32_t piece, int joins)
{
    const uint32_t i = (uint32_t)w->n++;
    w->symbols[i] = (symbol){(uint32_t)start, (uint32_t)bytes, i - 1, i + 1, piece, (uint32_t)joins};
}

static size_t character(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* The characters of a word as symbols. */
static int split(word *w, size_t n)
{
    const hyp_pieces *p = w->p;
    int unknown = 0;
    for (size_t at = 0, bytes; at < n; at += bytes) {
        if (cancelled(w)) return HYP_CANCELLED;
        bytes = character(w->text[at]);
        if (bytes > n - at) bytes = n - at;
        const uint32_t piece = hyp_pieces_find(p, w->text + at, bytes);
        if (piece != HYP_NO_PIECE) {
            add(w, at, bytes, piece, p->ranks[piece] != HYP_NO_PIECE);
            unknown = 0;
        } else if (p->bytes) {
            for (size_t i = 0; i < bytes; i++) add(w, at + i, 1, p->bytes[w->text[at + i]], 0);
        } else if (p->unknown == HYP_NO_PIECE) {
            return HYP_ERROR_ARGUMENT;
        } else if (unknown) { /* neighbours that are unknown are one unknown */
            w->symbols[w->n - 1].bytes += (uint32_t)bytes;
        } else {
            add(w, at, bytes, p->unknown, 0);
            unknown = 1;
        }
    }
    if (w->n) w->symbols[w->n - 1].next = HYP_NO_PIECE;
    return HYP_OK;
}

static int merge(word *w)
{
    for (uint32_t i = 0; i + 1 < w->n; i++) {
        if (cancelled(w)) return HYP_CANCELLED;
        meet(w, i);
    }
    while (w->pairs) {
        if (cancelled(w)) return HYP_CANCELLED;
        const pair top = pop(w);
        symbol *left = &w->symbols[top.first];
        if (left->bytes != top.left || left->next == HYP_NO_PIECE) continue;
        symbol *right = &w->symbols[left->next];
        if (left->bytes + right->bytes != top.both) continue; /* one of the two has grown since */
        left->bytes = top.both;
        left->piece = top.piece;
        left->next = right->next;
        right->bytes = 0;
        if (left->next != HYP_NO_PIECE) w->symbols[left->next].previous = top.first;
        if (left->previous != HYP_NO_PIECE) meet(w, left->previous);
        meet(w, top.first);
    }
    return HYP_OK;
}

static int starts_word(const uint8_t *text, size_t at, size_t n)
{
    static const uint8_t space[] = {0xE2, 0x96, 0x81};
    if (n - at < sizeof space || memcmp(text + at, space, sizeof space) != 0) return 0;
    return at < sizeof space || memcmp(text + at - sizeof space, space, sizeof space) != 0;
}

int hyp_pieces_encode(const hyp_pieces *p, const uint8_t *text, size_t n, int (*poll)(void *), void *work, uint32_t *ids, size_t *count)
{
    size_t steps = 0;
    *count = 0;
    for (size_t at = 0, end; at < n; at = end) {
        end = p->words ? at + 1 : n;
        while (end < n && !starts_word(text, end, n)) end++;
        symbol *symbols = work;
        word w = {p, text + at, symbols, (pair *)(symbols + (end - at)), 0, 0, poll, &steps};
        int status = split(&w, end - at);
        if (status == HYP_OK) status = merge(&w);
        if (status != HYP_OK) return status;
        for (uint32_t i = 0; w.n && i != HYP_NO_PIECE; i = symbols[i].next) ids[(*count)++] = symbols[i].piece;
    }
    return HYP_OK;
}
