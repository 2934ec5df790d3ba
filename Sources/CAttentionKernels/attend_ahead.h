// SPDX-License-Identifier: Apache-2.0
// The state that the loops of attend_vector.h share over one group of tokens, and how they prefetch the memory that comes
// next.
//
// Reading as fast as memory delivers takes about 64 cache lines in flight at any time, and hardware prefetches more only as
// lines are used. So the caller names the memory that comes next, and each loop prefetches its share of it, in address
// order. Measured on Zen 5 (bf16, 4 rows): 0.56 of a streaming read without this, 0.86 to 0.88 with it. Which cache is best
// to prefetch into differs between processors: a Zen 4 core has about 24 requests of its first level in flight, and more of
// its second. Kernels.md in the DocC catalogue has what else was tried.
#ifndef DCP_ATTEND_AHEAD_H
#define DCP_ATTEND_AHEAD_H

#include "apart_word.h"
#include "strips.h"

enum { dcp_group_tokens = 64, dcp_tile_rows = 4 };

#define DCP_INLINE static inline __attribute__((always_inline))
#define DCP_UNROLL _Pragma("clang loop unroll(full)")
// For loops of a few iterations, which a compiler would turn into a call of memcpy.
#define DCP_NO_CALL _Pragma("clang loop vectorize(disable) unroll(disable)")

DCP_INLINE int64_t dcp_min(int64_t a, int64_t b) { return a < b ? a : b; }

#ifdef DCP_DOT
enum { dcp_dot = 1 };
#else
enum { dcp_dot = 0 };
#endif

#ifdef DCP_BYTE_DOT
enum { dcp_byte_dot = 1 };
#else
enum { dcp_byte_dot = 0 };
#endif

// Whether a format's bytes are multiplied and accumulated as integers.
DCP_INLINE int dcp_is_byte_dot(int type) { return dcp_byte_dot && type == dcp_int8; }

// Whether a format's pairs are multiplied and accumulated as bf16.
DCP_INLINE int dcp_is_dot(int type) { return dcp_dot && (type == dcp_bf16 || type == dcp_fp8); }

// The tokens of a group that the rows of a tile see: all rows see the first `all` tokens, and none sees any from `most` on.
typedef struct {
    int64_t all, most;
} dcp_visible_range;

// The share of keys or values that one loop over all rows takes: the dimensions from..<to, and for keys the terms
// term..<end_term of the queries. Scores start at 0 if `begins`, and otherwise continue; if `ends`, they are complete and
// are scaled.
typedef struct {
    int64_t from, to, term, end_term;
    int begins, ends;
    int is_ranged, is_widened; // see dcp_attend_panel
} dcp_share;

// The state that the loops over one group share.
typedef struct {
    const dcp_attention_rows *rows;
    const char *keys;   // at the group's first token
    const char *values; // of the block
    float *widened; // see attend_widened.h
    int64_t first;      // the group's first token, as an index into the block
    int64_t tokens;     // of the group, up to the last that any row sees
    // The tokens begin..<end of the group that each row sees; both are 0 if it sees none.
    int32_t begin[dcp_attention_rows_max], end[dcp_attention_rows_max];
    // Aligned to a cache line. Without that, each of the vectors that follow lay in one line or across two, depending on
    // the stack. Four rows of bf16 from memory gain 6 %.
    _Alignas(64) float maximum[dcp_attention_rows_max]; // with `sum` the rows' state
    float sum[dcp_attention_rows_max];
    float highest[dcp_attention_rows_max]; // the maximum including this group
    float added[dcp_attention_rows_max];   // what this group adds to the sum
    float factor[dcp_attention_rows_max];  // rescales what was accumulated before
    float scores[dcp_attention_rows_max][dcp_group_tokens];
    // For formats with scales: scores are multiplied by those of keys, and weights by those of values.
    float key_scales[dcp_group_tokens], value_scales[dcp_group_tokens];
    // For formats with words (attend_apart.h): what a token keeps apart, times the scale of scores, and of which dimension.
    float apart_values[dcp_group_tokens];
    int32_t apart_dims[dcp_group_tokens];
    int32_t apart, apart_dim; // whether any token has a word; the dimension if all have the same
#ifdef DCP_BYTE_DOT
    uint8_t byte_weights[2][dcp_attention_rows_max][dcp_group_tokens]; // high bytes, low bytes
    float weight_units[dcp_attention_rows_max];
    int32_t weight_offsets[dcp_attention_rows_max]; // -128 times the sum of a row's weights
#endif
#ifdef DCP_DOT
    uint32_t weights[2][dcp_attention_rows_max][dcp_group_tokens / 2]; // two terms, as pairs of tokens
    uint64_t heavy[dcp_attention_rows_max / dcp_tile_rows]; // a bit for each token with a second term in any row of the tile
#endif
    uintptr_t ahead, ahead_due, ahead_end; // addresses: prefetched up to here, due up to here, the end
    // Volatile, so that a compiler does not keep them in registers that the loops need: `then` and `then_end` are read once
    // a block, `level` once a line.
    volatile uintptr_t then, then_end;
    volatile int32_t level;
    uintptr_t key_bytes, weight_bytes, value_bytes; // due for each iteration, or for each row's weights
    uint64_t seen[dcp_attention_rows_max]; // a bit for each token that the row sees
    dcp_visible_range visible[dcp_attention_rows_max / dcp_tile_rows];
} dcp_group;

// The end of the tokens of the group that a row sees.
DCP_INLINE int64_t dcp_end(int is_ranged, const dcp_group *group, int64_t row) {
    return is_ranged ? group->end[row] : group->tokens;
}

// The part of the group's state that a loop keeps in registers.
typedef struct {
    uintptr_t at, due, end;
} dcp_prefetching;

DCP_INLINE dcp_prefetching dcp_begin_prefetching(const dcp_group *group) {
    return (dcp_prefetching){group->ahead, group->ahead_due, group->ahead_end};
}

DCP_INLINE void dcp_end_prefetching(dcp_group *group, dcp_prefetching prefetching) {
    group->ahead = prefetching.at;
    group->ahead_due = prefetching.due;
    group->ahead_end = prefetching.end;
}

// Makes `bytes` more bytes due, and prefetches the lines that are due.
DCP_INLINE void dcp_prefetch_share(dcp_group *group, dcp_prefetching *prefetching, uintptr_t bytes) {
    prefetching->due += bytes;
    for (; prefetching->at < prefetching->due; prefetching->at += 64) {
        if (__builtin_expect(prefetching->at >= prefetching->end, 0)) {
            if (group->then == 0) return;
            prefetching->due += group->then - prefetching->at;
            prefetching->at = group->then;
            prefetching->end = group->then_end;
            group->then = group->then_end = 0;
        }
        // The level must be a constant, since it is part of the instruction.
        if (group->level == 2) {
            __builtin_prefetch((const void *)prefetching->at, 0, 2);
        } else {
            __builtin_prefetch((const void *)prefetching->at, 0, 3);
        }
    }
}

// Whether the loop over values takes both terms of every weight. It does if all weights keep two terms, and also if there
// are so few rows that they wait for memory, which those of fp8 do not. Terms that are 0 change no bit.
DCP_INLINE int dcp_sums_both_terms(int type, const dcp_attention_rows *rows) {
    return rows->light_share == 0.0f || (type != dcp_fp8 && rows->rows <= dcp_tile_rows);
}

// How many register tiles cover `lanes` lanes of all rows.
DCP_INLINE int64_t dcp_tiles(int64_t rows, int64_t lanes) {
    const int64_t tile = dcp_tile_rows, step = dcp_vectors_max(dcp_min(rows, tile)) * dcp_width;
    return (rows + tile - 1) / tile * ((lanes + step - 1) / step);
}

// Distributes the memory ahead over the loops of the block, in proportion to the time that they take: requests at an even
// rate keep the most lines in flight. The unit of time is an iteration of a loop over keys. An iteration over values takes
// two units if each weight has two terms. The weights of a row take about eight units, or four of the longer ones of
// Float32 arithmetic. These numbers served 4 and 8 rows best when measured.
DCP_INLINE void dcp_deal_ahead(int type, dcp_group *group, int64_t tokens, const dcp_ahead *ahead) {
    const dcp_attention_rows *rows = group->rows;
    const int dot = dcp_is_dot(type);
    const int64_t bytes = ahead->end - ahead->at + ahead->then_end - ahead->then;
    const int64_t groups = (tokens + dcp_group_tokens - 1) / dcp_group_tokens;
    const int64_t group_tokens = dcp_min(tokens, dcp_group_tokens);
    const int64_t keys = dcp_tiles(rows->rows, dcp_padded(group_tokens)) * (dot ? rows->terms : 1) * (rows->key_dim / 2);
    const int64_t values = dcp_tiles(rows->rows, rows->value_dim) * (group_tokens / 2);
    // Loops over bytes take four tokens at once but run once for each of two terms: as many iterations as with pairs.
    const int64_t value_time = dot && dcp_sums_both_terms(type, rows) ? 2 : 1;
    const int64_t weight_time = dot || dcp_is_byte_dot(type) ? 8 : 4;
    const float time = (float)(groups * (keys + value_time * values + weight_time * rows->rows));
    const float rate = (float)bytes / time;
    // Rounded up, since what is prefetched too late is of no use.
    group->key_bytes = (uintptr_t)rate + 1;
    group->value_bytes = (uintptr_t)(rate * (float)value_time) + 1;
    group->weight_bytes = (uintptr_t)(rate * (float)weight_time) + 1;
}

#endif
