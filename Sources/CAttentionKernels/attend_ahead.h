// What the loops of attend_vector.h share over one group of tokens, and how they ask for the memory that comes next.
//
// Reading as fast as memory delivers takes some 64 lines in flight at any time, and hardware asks for more only as lines
// are used. So the caller names the memory that comes next, and each loop asks for its share of it, in address order.
// Measured (Zen 5, bf16, 4 rows): 0.56 of a streaming read without, 0.76 to 0.87 like this; Kernels.md in the DocC
// catalogue has what else was tried.
#ifndef DCP_ATTEND_AHEAD_H
#define DCP_ATTEND_AHEAD_H

enum { dcp_group_tokens = 64, dcp_tile_rows = 4 };

#define DCP_INLINE static inline __attribute__((always_inline))
#define DCP_UNROLL _Pragma("clang loop unroll(full)")

DCP_INLINE int64_t dcp_min(int64_t a, int64_t b) { return a < b ? a : b; }

#ifdef DCP_DOT
enum { dcp_dot = 1 };
#else
enum { dcp_dot = 0 };
#endif

DCP_INLINE int64_t dcp_element_bytes(int type) { return type == dcp_f32 ? 4 : 2; }

// A loop asks for lines in every fourth iteration: less often would come in bursts, in each costs as much as it gains.
enum { dcp_ahead_iterations = 4 };

// So many lines over so many iterations, rounded up: how many each time.
DCP_INLINE int64_t dcp_ahead_lines(int64_t lines, int64_t iterations) {
    return iterations > 0 ? (lines * dcp_ahead_iterations + iterations - 1) / iterations : 0;
}

// What the loops over one group share.
typedef struct {
    const dcp_attention_rows *rows;
    const char *keys, *values; // at the group's first token
    int64_t tokens;            // of the group that some row sees
    int64_t seen[dcp_attention_rows_max];
    float factor[dcp_attention_rows_max];
    float scores[dcp_attention_rows_max][dcp_group_tokens];
#ifdef DCP_DOT
    uint32_t weights[2][dcp_attention_rows_max][dcp_group_tokens / 2]; // two terms, as pairs of tokens
#endif
    const char *ahead, *ahead_end;
    // Volatile so that a compiler does not keep them in registers that the loops need: they are read once a block.
    const char *volatile then, *volatile then_end;
    int64_t key_lines, weight_lines, value_lines; // each time, or for each row's weights
} dcp_group;

// Asks for up to so many lines. `at` and `end` are the caller's copies of the group's, kept in registers.
DCP_INLINE void dcp_ask(dcp_group *group, const char **at, const char **end, int64_t lines) {
    if (*at >= *end) return;
    const char *stop = *at + 64 * lines;
    if (stop > *end) stop = *end;
    for (; *at < stop; *at += 64) __builtin_prefetch(*at, 0, 3);
    if (__builtin_expect(*at >= *end, 0)) {
        *at = group->then;
        *end = group->then_end;
        group->then = group->then_end = NULL;
    }
}

// How many register tiles cover so many lanes for all rows.
DCP_INLINE int64_t dcp_tiles(int64_t rows, int64_t lanes) {
    const int64_t tile = dcp_tile_rows, step = dcp_vectors_max(dcp_min(rows, tile)) * dcp_width;
    return (rows + tile - 1) / tile * ((lanes + step - 1) / step);
}

// Deals out what is ahead over the loops of the block, in proportion to the time they take: requests that come at an even
// rate keep the most lines in flight. An iteration's time is its multiplications; the weights of a row take about that
// of 8 iterations, measured as what serves 4 and 8 rows best.
DCP_INLINE void dcp_deal_ahead(int type, dcp_group *group, int64_t tokens, const dcp_ahead *ahead) {
    const dcp_attention_rows *rows = group->rows;
    const int dot = dcp_dot && type == dcp_bf16;
    const int64_t lines = (ahead->end - ahead->at + ahead->then_end - ahead->then + 63) / 64;
    const int64_t groups = (tokens + dcp_group_tokens - 1) / dcp_group_tokens;
    const int64_t group_tokens = dcp_min(tokens, dcp_group_tokens);
    const int64_t keys =
        groups * dcp_tiles(rows->rows, dcp_padded(group_tokens)) * (dot ? rows->terms : 1) * (rows->key_dim / 2);
    const int64_t values = groups * dcp_tiles(rows->rows, rows->value_dim) * (group_tokens / 2);
    const int64_t weights = groups * rows->rows;
    const int64_t key_time = keys, value_time = dot ? 2 * values : values, weight_time = 8 * weights;
    const int64_t time = key_time + value_time + weight_time;
    group->key_lines = dcp_ahead_lines(lines * key_time / time, keys);
    group->weight_lines = lines * weight_time / time / weights;
    group->value_lines = dcp_ahead_lines(lines * value_time / time, values);
}

#endif
