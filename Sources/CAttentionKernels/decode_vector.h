// The decode kernel of an instruction set, written once over a few vector operations. A file for an instruction set
// defines these, opens its target bracket, and includes this header for what follows from them:
//
//   dcp_vec, dcp_words               16 or 8 Float32; as many 32-bit words, each a bf16 pair
//   dcp_width                        that number
//   vec_zero, vec_set1, vec_load, vec_store, vec_add, vec_sub, vec_mul, vec_fma (a * b + c, one rounding)
//   vec_max (the second where the first is NaN), vec_sum_lanes, vec_max_lanes
//   vec_power (2^(n + 32) of the integers n in the low bits), vec_zero_below (0 where x < limit)
//   vec_load_some, vec_store_some    the first n lanes only, the others are neither read nor written
//   vec_from_f16, vec_from_f16_some  the same many f16 elements, widened
//   words_load, words_load_some, words_low, words_high
//   dcp_vectors_max(R)               how many vectors per row fit the registers beside each other for R rows: 4 or 2
//
// As in decode_block.h tokens lie along SIMD lanes and a group of 64 tokens is scored, weighted and added. Here up to
// four rows share a register tile: a vector of keys or values is loaded and widened once for all of them. A row's sum
// takes its terms one after the other, in the order of dimensions and tokens, whatever tile it is in: its bits depend
// neither on the rows beside it nor on how many tokens those see.
//
// While a group is computed the next one is asked for, in this block or at the start of the next: lines are spread over
// the loops so that there are always some in flight, and the softmax is too short to drain them.
#ifndef DCP_DECODE_VECTOR_H
#define DCP_DECODE_VECTOR_H

enum { dcp_group_tokens = 64, dcp_tile_rows = 4 };

#define DCP_INLINE static inline __attribute__((always_inline))
#define DCP_UNROLL _Pragma("clang loop unroll(full)")

// What a loop asks for: in iteration i, bytes from..<end of the line run at `at + i * stride`, for `count` iterations.
typedef struct {
    const char *at;
    int64_t stride;
    int64_t count;
    int64_t from, end;
} dcp_ahead;

// The share of one of `calls` loops that run over the same iterations: whole lines, each in one share.
DCP_INLINE dcp_ahead dcp_ahead_share(dcp_ahead all, int64_t call, int64_t calls) {
    const int64_t lines = (all.end + 63) / 64;
    all.from = lines * call / calls * 64;
    all.end = lines * (call + 1) / calls * 64;
    return all;
}

DCP_INLINE void dcp_ahead_step(const dcp_ahead *ahead, int64_t i) {
    if (i >= ahead->count) return;
    const char *run = ahead->at + i * ahead->stride;
    for (int64_t byte = ahead->from; byte < ahead->end; byte += 64) __builtin_prefetch(run + byte, 0, 3);
}

// What the loops over one group share.
typedef struct {
    const dcp_decode_rows *rows;
    const char *keys, *values; // at the group's first token
    int64_t tokens;            // of the group that some row sees
    int64_t seen[dcp_decode_rows_max];
    float factor[dcp_decode_rows_max];
    float scores[dcp_decode_rows_max][dcp_group_tokens];
    dcp_ahead ahead_keys;   // by rows of the K panel: dimensions, or pairs of them for bf16
    dcp_ahead ahead_values; // by pairs of tokens
} dcp_group;

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

// Scores of `vectors` vectors of tokens from `token`, for `count` rows from `row`.
DCP_INLINE void dcp_score_tile(int type, int count, int vectors, dcp_group *group, int64_t row, int64_t token,
                               dcp_ahead ahead) {
    const int64_t dim = group->rows->key_dim, stride = group->rows->block_tokens;
    const float *query = group->rows->queries + row * dim;
    const char *keys = group->keys + token * (type == dcp_bf16 ? 4 : dcp_element_bytes(type));
    dcp_vec total[dcp_tile_rows][4];
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) total[r][v] = vec_zero();
    }
    for (int64_t d = 0; d < dim; d += 2, keys += 2 * stride * dcp_element_bytes(type)) {
        if (type == dcp_bf16) {
            dcp_ahead_step(&ahead, d / 2);
        } else {
            dcp_ahead_step(&ahead, d);
            dcp_ahead_step(&ahead, d + 1);
        }
        dcp_vec even[4], odd[4];
        dcp_load_pair(type, vectors, 0, keys, stride, even, odd);
        DCP_UNROLL
        for (int r = 0; r < count; r++) {
            const dcp_vec q0 = vec_set1(query[r * dim + d]), q1 = vec_set1(query[r * dim + d + 1]);
            DCP_UNROLL
            for (int v = 0; v < vectors; v++) total[r][v] = vec_fma(q0, even[v], total[r][v]);
            DCP_UNROLL
            for (int v = 0; v < vectors; v++) total[r][v] = vec_fma(q1, odd[v], total[r][v]);
        }
    }
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) vec_store(&group->scores[row + r][token + v * dcp_width], total[r][v]);
    }
}

// Adds the weighted values of `vectors` vectors of dimensions from `dim`, or of `some` dimensions, to `count` rows.
DCP_INLINE void dcp_value_tile(int type, int count, int vectors, int some, dcp_group *group, int64_t row, int64_t dim,
                               dcp_ahead ahead) {
    const int64_t stride = group->rows->value_dim;
    const int64_t pair_bytes = 2 * stride * dcp_element_bytes(type);
    const char *values = group->values + dim * (type == dcp_bf16 ? 4 : dcp_element_bytes(type));
    const float *weights = group->scores[row];
    int64_t all = group->tokens, most = 0;
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        const int64_t seen = group->seen[row + r];
        all = seen < all ? seen : all;
        most = seen > most ? seen : most;
    }
    dcp_vec total[dcp_tile_rows][4], even[4], odd[4];
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) total[r][v] = vec_zero();
    }
    int64_t t = 0;
    for (; t + 1 < all; t += 2, values += pair_bytes) {
        dcp_ahead_step(&ahead, t / 2);
        dcp_load_pair(type, vectors, some, values, stride, even, odd);
        DCP_UNROLL
        for (int r = 0; r < count; r++) {
            const dcp_vec w0 = vec_set1(weights[r * dcp_group_tokens + t]);
            const dcp_vec w1 = vec_set1(weights[r * dcp_group_tokens + t + 1]);
            DCP_UNROLL
            for (int v = 0; v < vectors; v++) total[r][v] = vec_fma(w0, even[v], total[r][v]);
            DCP_UNROLL
            for (int v = 0; v < vectors; v++) total[r][v] = vec_fma(w1, odd[v], total[r][v]);
        }
    }
    // Rows that see fewer tokens drop out: a weight of 0 would take in a value that is NaN. Panels hold tokens in
    // pairs, so the token after an odd last one is inside.
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
DCP_INLINE void dcp_score_rows(int type, int count, dcp_group *group, int64_t row, int64_t call, int64_t calls) {
    const int64_t tokens = dcp_padded(group->tokens);
    const int64_t step = dcp_vectors_max(count) * dcp_width;
    const int64_t steps = (tokens + step - 1) / step;
    for (int64_t token = 0; token < tokens;) {
        const dcp_ahead ahead = dcp_ahead_share(group->ahead_keys, call * steps + token / step, calls * steps);
        const int64_t vectors = (tokens - token) / dcp_width;
        if (vectors >= 4 && dcp_vectors_max(count) >= 4) {
            dcp_score_tile(type, count, 4, group, row, token, ahead);
            token += 4 * dcp_width;
        } else if (vectors >= 2) {
            dcp_score_tile(type, count, 2, group, row, token, ahead);
            token += 2 * dcp_width;
        } else {
            dcp_score_tile(type, count, 1, group, row, token, ahead);
            token += dcp_width;
        }
    }
}

DCP_INLINE void dcp_value_rows(int type, int count, dcp_group *group, int64_t row, int64_t call, int64_t calls) {
    const int64_t dims = group->rows->value_dim;
    const int64_t step = dcp_vectors_max(count) * dcp_width;
    const int64_t steps = (dims + step - 1) / step;
    for (int64_t dim = 0; dim < dims;) {
        const dcp_ahead ahead = dcp_ahead_share(group->ahead_values, call * steps + dim / step, calls * steps);
        const int64_t vectors = (dims - dim) / dcp_width;
        if (vectors >= 4 && dcp_vectors_max(count) >= 4) {
            dcp_value_tile(type, count, 4, 0, group, row, dim, ahead);
            dim += 4 * dcp_width;
        } else if (vectors >= 2) {
            dcp_value_tile(type, count, 2, 0, group, row, dim, ahead);
            dim += 2 * dcp_width;
        } else if (vectors == 1) {
            dcp_value_tile(type, count, 1, 0, group, row, dim, ahead);
            dim += dcp_width;
        } else {
            dcp_value_tile(type, count, 1, (int)(dims - dim), group, row, dim, ahead);
            dim = dims;
        }
    }
}

// e^x as dcp_exp computes it, with its promises, but with fused multiply-adds.
DCP_INLINE dcp_vec dcp_exp_vec(dcp_vec x) {
    const dcp_vec round = vec_set1(0x1.8p23f);
    const dcp_vec shifted = vec_fma(x, vec_set1(1.44269504088896341f), round);
    const dcp_vec n = vec_sub(shifted, round);
    dcp_vec r = vec_fma(n, vec_set1(-0.693359375f), x);
    r = vec_fma(n, vec_set1(2.12194440e-4f), r);
    dcp_vec p = vec_fma(vec_set1(1.9875691500e-4f), r, vec_set1(1.3981999507e-3f));
    p = vec_fma(p, r, vec_set1(8.3334519073e-3f));
    p = vec_fma(p, r, vec_set1(4.1665795894e-2f));
    p = vec_fma(p, r, vec_set1(1.6666665459e-1f));
    p = vec_fma(p, r, vec_set1(5.0000001201e-1f));
    p = vec_add(vec_fma(p, vec_mul(r, r), r), vec_set1(1.0f));
    // 2^(n + 32) and 2^-32: below 2^-126 the product is a denormal, rounded once.
    return vec_zero_below(x, -88.0f, vec_mul(vec_mul(p, vec_power(shifted)), vec_set1(0x1p-32f)));
}

// dcp_softmax_row, for one row that sees a token of the group: a compiler does not keep its reductions in registers,
// which cost a quarter of the time of eight rows.
DCP_INLINE void dcp_weigh_row(dcp_group *group, int64_t row) {
    const dcp_decode_rows *rows = group->rows;
    float *scores = group->scores[row];
    const int64_t padded = dcp_padded(group->seen[row]);
    if (rows->soft_cap > 0.0f) {
        for (int64_t t = 0; t < padded; t++) scores[t] = rows->soft_cap * dcp_tanh(scores[t] / rows->soft_cap);
    }
    for (int64_t t = group->seen[row]; t < padded; t++) scores[t] = -INFINITY;
    dcp_vec best = vec_set1(-INFINITY);
    for (int64_t t = 0; t < padded; t += dcp_width) best = vec_max(vec_load(scores + t), best);
    const float before = rows->maximum[row], here = vec_max_lanes(best);
    const float highest = here > before ? here : before;
    const dcp_vec shift = vec_set1(highest);
    dcp_vec sum = vec_zero();
    for (int64_t t = 0; t < padded; t += dcp_width) {
        const dcp_vec weight = dcp_exp_vec(vec_sub(vec_load(scores + t), shift));
        vec_store(scores + t, weight);
        sum = vec_add(sum, weight);
    }
    group->factor[row] = dcp_exp(before - highest);
    rows->sum[row] = rows->sum[row] * group->factor[row] + vec_sum_lanes(sum);
    rows->maximum[row] = highest;
}

// Calls a step with the number of rows of each tile as a constant.
#define DCP_FOR_TILES(step, type, group)                                                                               \
    do {                                                                                                               \
        const int64_t calls = ((group)->rows->rows + dcp_tile_rows - 1) / dcp_tile_rows;                               \
        for (int64_t call = 0, row = 0; call < calls; call++, row += dcp_tile_rows) {                                  \
            switch ((group)->rows->rows - row) {                                                                       \
            case 1: step(type, 1, group, row, call, calls); break;                                                     \
            case 2: step(type, 2, group, row, call, calls); break;                                                     \
            case 3: step(type, 3, group, row, call, calls); break;                                                     \
            default: step(type, 4, group, row, call, calls);                                                           \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

DCP_INLINE int64_t dcp_min(int64_t a, int64_t b) { return a < b ? a : b; }

DCP_INLINE void dcp_decode_panel(int type, const dcp_decode_rows *rows, const void *keys, const void *values,
                                 const int32_t *visible, const void *next_keys, const void *next_values) {
    const int64_t size = dcp_element_bytes(type), pair = type == dcp_bf16 ? 2 : 1;
    const int64_t key_run_bytes = rows->block_tokens * pair * size, value_pair_bytes = 2 * rows->value_dim * size;
    int64_t end = 0;
    for (int64_t r = 0; r < rows->rows; r++) end = visible[r] > end ? visible[r] : end;
    dcp_group group;
    group.rows = rows;
    for (int64_t first = 0; first < end; first += dcp_group_tokens) {
        group.keys = (const char *)keys + first * pair * size;
        group.values = (const char *)values + first * rows->value_dim * size;
        group.tokens = dcp_min(end - first, dcp_group_tokens);
        // Up to 15 tokens past the last visible one are scored: inside the panel, and replaced before they are read.
        for (int64_t r = 0; r < rows->rows; r++) {
            group.seen[r] = visible[r] < first ? 0 : dcp_min(visible[r] - first, group.tokens);
        }
        const int64_t next = first + dcp_group_tokens < end ? first + dcp_group_tokens : 0;
        const char *ahead_keys = next > 0 ? keys : next_keys, *ahead_values = next > 0 ? values : next_values;
        const int64_t ahead_tokens = dcp_min(dcp_group_tokens, rows->block_tokens - next);
        if (ahead_keys && ahead_values) {
            group.ahead_keys = (dcp_ahead){
                .at = ahead_keys + next * pair * size, .stride = key_run_bytes, .count = rows->key_dim / pair,
                .end = ahead_tokens * pair * size};
            group.ahead_values = (dcp_ahead){
                .at = ahead_values + next * rows->value_dim * size, .stride = value_pair_bytes,
                .count = ahead_tokens / 2, .end = value_pair_bytes};
        } else {
            group.ahead_keys = group.ahead_values = (dcp_ahead){.count = 0};
        }

        DCP_FOR_TILES(dcp_score_rows, type, &group);
        for (int64_t r = 0; r < rows->rows; r++) {
            if (group.seen[r] > 0) dcp_weigh_row(&group, r);
        }
        DCP_FOR_TILES(dcp_value_rows, type, &group);
    }
}

// The three kernels of an instruction set.
#define DCP_DECODE_KERNEL(name, type)                                                                                  \
    void name(const dcp_decode_rows *rows, const void *keys, const void *values, const int32_t *visible,               \
              const void *next_keys, const void *next_values) {                                                        \
        dcp_decode_panel(type, rows, keys, values, visible, next_keys, next_values);                                   \
    }

#endif
