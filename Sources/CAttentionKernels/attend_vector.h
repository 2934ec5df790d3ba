// The attention kernel of an instruction set, written once over a few vector operations. A file for an instruction set
// defines these, opens its target bracket, and includes this header for what follows from them:
//
//   dcp_vec, dcp_words               16, 8 or 4 Float32; as many 32-bit words, each a bf16 pair
//   dcp_width                        that number
//   vec_zero, vec_set1, vec_load, vec_store, vec_add, vec_sub, vec_mul, vec_fma (a * b + c, one rounding)
//   vec_max (the second where the first is NaN), vec_sum_lanes, vec_max_lanes
//   vec_exp (e^x for x <= 0: at most 2 ulp, 1 at 0, 0 where it is below 2^-126, NaN for NaN)
//   vec_load_some, vec_store_some    the first n lanes only, the others are neither read nor written
//   vec_from_f16, vec_from_f16_some  the same many f16 elements, widened
//   words_load, words_load_some, words_low, words_high
//   dcp_vectors_max(R)               how many vectors per row fit the registers beside each other for R rows: 4 or 2
//
// and, where bf16 pairs are multiplied and added as they are, DCP_DOT and
//
//   words_set1, words_even           a word in all lanes; words whose second element is 0
//   vec_dot (c + a.first * b.first + a.second * b.second)
//   vec_store_bf16                   rounds to bf16 and stores half as many words
//   vec_bf16_residue                 what that rounding took away
//
// As in attend_block.h tokens lie along SIMD lanes and a group of 64 tokens is scored, weighted and added. Here up to
// four rows share a register tile: a vector of keys or values is loaded and widened once for all of them. A row's sum
// takes its terms one after the other, in the order of dimensions and tokens, whatever tile it is in: its bits depend
// neither on the rows beside it nor on how many tokens those see.
//
// With DCP_DOT the products of bf16 are exact and sums are Float32, as without. Queries are a sum of up to three bf16
// (dcp_split_queries) and weights one of two, which keeps 16 of their 24 bits: results differ from Float32 arithmetic by
// 2^-18 of the values, not by the 2^-9 of weights that are simply rounded. From memory it costs nothing: the second
// term of the weights waits for no load.
//
// Reading as fast as memory delivers takes some 64 lines in flight at any time, and hardware asks for more only as lines
// are used. So the caller names the memory that comes next, and each loop asks for its share of it, in address order.
// Measured (Zen 5, bf16, 4 rows): 0.56 of a streaming read without, 0.76 to 0.87 like this; Kernels.md in the DocC
// catalogue has what else was tried.
#ifndef DCP_ATTEND_VECTOR_H
#define DCP_ATTEND_VECTOR_H

enum { dcp_group_tokens = 64, dcp_tile_rows = 4 };

#define DCP_INLINE static inline __attribute__((always_inline))
#define DCP_UNROLL _Pragma("clang loop unroll(full)")

DCP_INLINE int64_t dcp_min(int64_t a, int64_t b) { return a < b ? a : b; }

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

DCP_INLINE int64_t dcp_element_bytes(int type) { return type == dcp_f32 ? 4 : 2; }

// Two rows of `vectors` vectors: keys of two dimensions, values of two tokens. `pair` is where the first row's vector 0
// is, `stride` the elements between the two rows; bf16 has them interleaved. Of the last vector only `some` lanes are
// read when `some` is not 0.
DCP_INLINE void dcp_load_pair(int type, int vectors, int some, const char *pair, int64_t stride, dcp_vec *first,
                              dcp_vec *second) {
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) {
        if (type == dcp_bf16) {
            const uint32_t *at = (const uint32_t *)pair + v * dcp_width;
            const dcp_words words = some ? words_load_some(at, some) : words_load(at);
            first[v] = words_low(words);
            second[v] = words_high(words);
        } else if (type == dcp_f16) {
            const uint16_t *at = (const uint16_t *)pair + v * dcp_width;
            first[v] = some ? vec_from_f16_some(at, some) : vec_from_f16(at);
            second[v] = some ? vec_from_f16_some(at + stride, some) : vec_from_f16(at + stride);
        } else {
            const float *at = (const float *)pair + v * dcp_width;
            first[v] = some ? vec_load_some(at, some) : vec_load(at);
            second[v] = some ? vec_load_some(at + stride, some) : vec_load(at + stride);
        }
    }
}

#ifdef DCP_DOT
enum { dcp_dot = 1 };
#else
enum { dcp_dot = 0 };
#endif

// Adds two dimensions, or two tokens, of one row to its sums.
DCP_INLINE void dcp_add_pair(int vectors, float first, float second, const dcp_vec *even, const dcp_vec *odd,
                             dcp_vec *total) {
    const dcp_vec a = vec_set1(first), b = vec_set1(second);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_fma(a, even[v], total[v]);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_fma(b, odd[v], total[v]);
}

#ifdef DCP_DOT
DCP_INLINE void dcp_load_words(int vectors, int some, const char *pair, dcp_words *words) {
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) {
        const uint32_t *at = (const uint32_t *)pair + v * dcp_width;
        words[v] = some ? words_load_some(at, some) : words_load(at);
    }
}

DCP_INLINE void dcp_add_dot(int vectors, uint32_t pair, const dcp_words *words, dcp_vec *total) {
    const dcp_words both = words_set1(pair);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_dot(both, words[v], total[v]);
}
#endif

// Scores of `vectors` vectors of tokens from `token`, for `count` rows from `row`.
DCP_INLINE void dcp_score_tile(int type, int count, int vectors, dcp_group *group, int64_t row, int64_t token) {
    const dcp_attention_rows *rows = group->rows;
    const int64_t dim = rows->key_dim, stride = rows->block_tokens;
    const int64_t pair_bytes = 2 * stride * dcp_element_bytes(type);
    const char *keys = group->keys + token * (type == dcp_bf16 ? 4 : dcp_element_bytes(type));
    const char *ahead = group->ahead, *ahead_end = group->ahead_end;
    dcp_vec total[dcp_tile_rows][4];
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) total[r][v] = vec_zero();
    }
    if (dcp_dot && type == dcp_bf16) {
#ifdef DCP_DOT
        // The smallest first: their sums round at their own magnitude, not at that of the score.
        for (int64_t term = rows->terms; term-- > 0;) {
            const uint32_t *query = rows->query_terms + (term * rows->rows + row) * (dim / 2);
            for (int64_t d = 0; d < dim / 2; d++) {
                if (d % dcp_ahead_iterations == 0) dcp_ask(group, &ahead, &ahead_end, group->key_lines);
                dcp_words words[4];
                dcp_load_words(vectors, 0, keys + d * pair_bytes, words);
                DCP_UNROLL
                for (int r = 0; r < count; r++) dcp_add_dot(vectors, query[r * (dim / 2) + d], words, total[r]);
            }
        }
#endif
    } else {
        const float *query = rows->queries + row * dim;
        for (int64_t d = 0; d < dim; d += 2, keys += pair_bytes) {
            if (d / 2 % dcp_ahead_iterations == 0) dcp_ask(group, &ahead, &ahead_end, group->key_lines);
            dcp_vec even[4], odd[4];
            dcp_load_pair(type, vectors, 0, keys, stride, even, odd);
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                dcp_add_pair(vectors, query[r * dim + d], query[r * dim + d + 1], even, odd, total[r]);
            }
        }
    }
    group->ahead = ahead;
    group->ahead_end = ahead_end;
    const dcp_vec scale = vec_set1(rows->scale);
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) {
            vec_store(&group->scores[row + r][token + v * dcp_width], vec_mul(total[r][v], scale));
        }
    }
}

// Adds the weighted values of `vectors` vectors of dimensions from `dim`, or of `some` dimensions, to `count` rows.
DCP_INLINE void dcp_value_tile(int type, int count, int vectors, int some, dcp_group *group, int64_t row,
                               int64_t dim) {
    const int64_t stride = group->rows->value_dim;
    const int64_t pair_bytes = 2 * stride * dcp_element_bytes(type);
    const char *values = group->values + dim * (type == dcp_bf16 ? 4 : dcp_element_bytes(type));
    int64_t all = group->tokens, most = 0;
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        const int64_t seen = group->seen[row + r];
        all = seen < all ? seen : all;
        most = seen > most ? seen : most;
    }
    const char *ahead = group->ahead, *ahead_end = group->ahead_end;
    dcp_vec total[dcp_tile_rows][4];
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) total[r][v] = vec_zero();
    }
    // Tokens that all rows see, in pairs. Then those that some see: rows that see fewer drop out, since a weight of 0
    // would take in a value that is NaN. Panels hold tokens in pairs, so the token after an odd last one is inside.
    int64_t t = 0;
    if (dcp_dot && type == dcp_bf16) {
#ifdef DCP_DOT
        dcp_words words[4];
        if (group->rows->weight_terms == 1) {
            for (; t + 1 < all; t += 2, values += pair_bytes) {
                if (t / 2 % dcp_ahead_iterations == 0) dcp_ask(group, &ahead, &ahead_end, group->value_lines);
                dcp_load_words(vectors, some, values, words);
                DCP_UNROLL
                for (int r = 0; r < count; r++)
                    dcp_add_dot(vectors, group->weights[0][row + r][t / 2], words, total[r]);
            }
        }
        for (; t + 1 < all; t += 2, values += pair_bytes) {
            if (t / 2 % dcp_ahead_iterations == 0) dcp_ask(group, &ahead, &ahead_end, group->value_lines);
            dcp_load_words(vectors, some, values, words);
            DCP_UNROLL
            for (int r = 0; r < count; r++) dcp_add_dot(vectors, group->weights[0][row + r][t / 2], words, total[r]);
            DCP_UNROLL
            for (int r = 0; r < count; r++) dcp_add_dot(vectors, group->weights[1][row + r][t / 2], words, total[r]);
        }
        for (; t < most; t += 2, values += pair_bytes) {
            dcp_load_words(vectors, some, values, words);
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                const int64_t seen = group->seen[row + r];
                if (t >= seen) continue;
                dcp_words visible[4];
                DCP_UNROLL
                for (int v = 0; v < vectors; v++) visible[v] = t + 1 < seen ? words[v] : words_even(words[v]);
                for (int term = 0; term < group->rows->weight_terms; term++)
                    dcp_add_dot(vectors, group->weights[term][row + r][t / 2], visible, total[r]);
            }
        }
#endif
    } else {
        const float *weights = group->scores[row];
        dcp_vec even[4], odd[4];
        for (; t + 1 < all; t += 2, values += pair_bytes) {
            if (t / 2 % dcp_ahead_iterations == 0) dcp_ask(group, &ahead, &ahead_end, group->value_lines);
            dcp_load_pair(type, vectors, some, values, stride, even, odd);
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                const float *weight = weights + r * dcp_group_tokens + t;
                dcp_add_pair(vectors, weight[0], weight[1], even, odd, total[r]);
            }
        }
        for (; t < most; t += 2, values += pair_bytes) {
            dcp_load_pair(type, vectors, some, values, stride, even, odd);
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                const float *weight = weights + r * dcp_group_tokens + t;
                if (t < group->seen[row + r]) {
                    DCP_UNROLL
                    for (int v = 0; v < vectors; v++) total[r][v] = vec_fma(vec_set1(weight[0]), even[v], total[r][v]);
                }
                if (t + 1 < group->seen[row + r]) {
                    DCP_UNROLL
                    for (int v = 0; v < vectors; v++) total[r][v] = vec_fma(vec_set1(weight[1]), odd[v], total[r][v]);
                }
            }
        }
    }
    group->ahead = ahead;
    group->ahead_end = ahead_end;
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        if (group->seen[row + r] == 0) continue;
        float *out = group->rows->output + (row + r) * stride + dim;
        const dcp_vec factor = vec_set1(group->factor[row + r]);
        DCP_UNROLL
        for (int v = 0; v < vectors; v++, out += dcp_width) {
            if (some) {
                vec_store_some(out, some, vec_fma(vec_load_some(out, some), factor, total[r][v]));
            } else {
                vec_store(out, vec_fma(vec_load(out), factor, total[r][v]));
            }
        }
    }
}

// Scores and values of one tile's rows: as many vectors at once as the registers hold, then what is left.
DCP_INLINE void dcp_score_rows(int type, int count, dcp_group *group, int64_t row) {
    const int64_t tokens = dcp_padded(group->tokens);
    for (int64_t token = 0; token < tokens;) {
        const int64_t vectors = (tokens - token) / dcp_width;
        if (vectors >= 4 && dcp_vectors_max(count) >= 4) {
            dcp_score_tile(type, count, 4, group, row, token);
            token += 4 * dcp_width;
        } else if (vectors >= 2) {
            dcp_score_tile(type, count, 2, group, row, token);
            token += 2 * dcp_width;
        } else {
            dcp_score_tile(type, count, 1, group, row, token);
            token += dcp_width;
        }
    }
}

DCP_INLINE void dcp_value_rows(int type, int count, dcp_group *group, int64_t row) {
    const int64_t dims = group->rows->value_dim;
    for (int64_t dim = 0; dim < dims;) {
        const int64_t vectors = (dims - dim) / dcp_width;
        if (vectors >= 4 && dcp_vectors_max(count) >= 4) {
            dcp_value_tile(type, count, 4, 0, group, row, dim);
            dim += 4 * dcp_width;
        } else if (vectors >= 2) {
            dcp_value_tile(type, count, 2, 0, group, row, dim);
            dim += 2 * dcp_width;
        } else if (vectors == 1) {
            dcp_value_tile(type, count, 1, 0, group, row, dim);
            dim += dcp_width;
        } else {
            dcp_value_tile(type, count, 1, (int)(dims - dim), group, row, dim);
            dim = dims;
        }
    }
}

// dcp_softmax_row, for one row that sees a token of the group; `padded` tokens are scored.
DCP_INLINE void dcp_weigh_tokens(int type, dcp_group *group, int64_t row, int64_t padded) {
    const dcp_attention_rows *rows = group->rows;
    float *scores = group->scores[row];
    dcp_vec best = vec_set1(-INFINITY);
    for (int64_t t = 0; t < padded; t += dcp_width) best = vec_max(vec_load(scores + t), best);
    const float before = rows->maximum[row], here = vec_max_lanes(best);
    const float highest = here > before ? here : before;
    const dcp_vec shift = vec_set1(highest);
    dcp_vec sum = vec_zero();
    for (int64_t t = 0; t < padded; t += dcp_width) {
        const dcp_vec weight = vec_exp(vec_sub(vec_load(scores + t), shift));
        sum = vec_add(sum, weight);
#ifdef DCP_DOT
        if (type == dcp_bf16) {
            vec_store_bf16(&group->weights[0][row][t / 2], weight);
            if (rows->weight_terms > 1) vec_store_bf16(&group->weights[1][row][t / 2], vec_bf16_residue(weight));
            continue;
        }
#else
        (void)type;
#endif
        vec_store(scores + t, weight);
    }
    group->factor[row] = highest == before ? 1.0f : dcp_exp(before - highest);
    rows->sum[row] = rows->sum[row] * group->factor[row] + vec_sum_lanes(sum);
    rows->maximum[row] = highest;
}

DCP_INLINE void dcp_weigh_row(int type, dcp_group *group, int64_t row) {
    const float soft_cap = group->rows->soft_cap;
    float *scores = group->scores[row];
    const int64_t padded = dcp_padded(group->seen[row]);
    if (soft_cap > 0.0f) {
        for (int64_t t = 0; t < padded; t++) scores[t] = soft_cap * dcp_tanh(scores[t] / soft_cap);
    }
    for (int64_t t = group->seen[row]; t < padded; t++) scores[t] = -INFINITY;
    // A count that the compiler knows keeps the whole row in registers: nothing else runs meanwhile.
    if (padded == dcp_group_tokens) {
        dcp_weigh_tokens(type, group, row, dcp_group_tokens);
    } else {
        dcp_weigh_tokens(type, group, row, padded);
    }
}

// Calls a step with the number of rows of each tile as a constant.
#define DCP_FOR_TILES(step, type, group)                                                                               \
    do {                                                                                                               \
        for (int64_t row = 0; row < (group)->rows->rows; row += dcp_tile_rows) {                                 \
            switch ((group)->rows->rows - row) {                                                                       \
            case 1: step(type, 1, group, row); break;                                                                  \
            case 2: step(type, 2, group, row); break;                                                                  \
            case 3: step(type, 3, group, row); break;                                                                  \
            default: step(type, 4, group, row);                                                                        \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

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

DCP_INLINE void dcp_attend_panel(int type, const dcp_attention_rows *rows, const void *keys, const void *values,
                                 const int32_t *visible, dcp_ahead ahead) {
    const int64_t size = dcp_element_bytes(type), pair = type == dcp_bf16 ? 2 : 1;
    int64_t end = 0;
    for (int64_t r = 0; r < rows->rows; r++) end = visible[r] > end ? visible[r] : end;
    if (end == 0) return;
    dcp_group group;
    group.rows = rows;
    group.ahead = ahead.at;
    group.ahead_end = ahead.end;
    group.then = ahead.then;
    group.then_end = ahead.then_end;
    dcp_deal_ahead(type, &group, end, &ahead);
    for (int64_t first = 0; first < end; first += dcp_group_tokens) {
        group.keys = (const char *)keys + first * pair * size;
        group.values = (const char *)values + first * rows->value_dim * size;
        group.tokens = dcp_min(end - first, dcp_group_tokens);
        // Up to 15 tokens past the last visible one are scored: inside the panel, and replaced before they are read.
        for (int64_t r = 0; r < rows->rows; r++) {
            group.seen[r] = visible[r] < first ? 0 : dcp_min(visible[r] - first, group.tokens);
        }
        DCP_FOR_TILES(dcp_score_rows, type, &group);
        for (int64_t r = 0; r < rows->rows; r++) {
            dcp_ask(&group, &group.ahead, &group.ahead_end, group.weight_lines);
            if (group.seen[r] > 0) dcp_weigh_row(type, &group, r);
        }
        DCP_FOR_TILES(dcp_value_rows, type, &group);
    }
}

// The three kernels of an instruction set.
#define DCP_ATTENTION_KERNEL(name, type)                                                                                  \
    void name(const dcp_attention_rows *rows, const void *keys, const void *values, const int32_t *visible,               \
              dcp_ahead ahead) {                                                                                       \
        dcp_attend_panel(type, rows, keys, values, visible, ahead);                                                    \
    }

#endif
