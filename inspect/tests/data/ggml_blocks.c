// Writes ggml_blocks.bin: for each type below, three runs of 256 elements in blocks, and the f32 values that llama.cpp's
// ggml-quants.c gives them. Two runs are what its encoders make of weights of different sizes, with equal importances,
// and one is random bytes with plausible f16 scales. These are the types that gguf.quants does not decode, and those that
// it does not encode.
//
//     gcc -O2 -ffp-contract=off -I GGML/include -I GGML/src ggml_blocks.c GGML/src/ggml-quants.c -lm && ./a.out
//
// GGML is llama.cpp's folder ggml, here of llama-cpp-sys-2 0.1.161.

#include "ggml-quants.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUN = 256, RUNS = 3, ENCODED = 2 };

typedef size_t encode_t(const float *, void *, int64_t, int64_t, const float *);
typedef void decode_t(const void *, float *, int64_t);

static size_t encode_q8_1(const float * x, void * y, int64_t rows, int64_t cols, const float * w) {
    (void) w;
    quantize_row_q8_1_ref(x, y, rows * cols);
    return 0;
}

// ggml-quants.c has no decoder of Q8_1: an element is d * q, as its encoder computes q.
static void decode_q8_1(const void * blocks, float * y, int64_t k) {
    for (const unsigned char * b = blocks; k > 0; k -= 32, b += 36) {
        _Float16 d;
        memcpy(&d, b, 2);
        for (int j = 0; j < 32; j++) *y++ = (float) (signed char) b[4 + j] * (float) d;
    }
}

static const struct {
    encode_t * encode;
    decode_t * decode;
    int elements, bytes, scale;
} types[] = {
#define TYPE(name, elements, bytes, scale) { quantize_##name, (decode_t *) dequantize_row_##name, elements, bytes, scale }
    TYPE(q1_0, 128, 18, 0), TYPE(q2_0, 64, 18, 0), { encode_q8_1, decode_q8_1, 32, 36, 0 },
    TYPE(nvfp4, 64, 36, -1), TYPE(mxfp4, 32, 17, -1),
    TYPE(iq1_s, 256, 50, 0), TYPE(iq1_m, 256, 56, -1), TYPE(iq2_xxs, 256, 66, 0), TYPE(iq2_xs, 256, 74, 0),
    TYPE(iq2_s, 256, 82, 0), TYPE(iq3_xxs, 256, 98, 0), TYPE(iq3_s, 256, 110, 0), TYPE(iq4_nl, 32, 18, 0),
    TYPE(iq4_xs, 256, 136, 0),
};

static uint64_t state = 88172645463325252u;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

// About normal, of variance 1.
static float normal(void) {
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += (float) (next() >> 40) / (1 << 24);
    return sum - 6;
}

int main(void) {
    iq2xs_init_impl(GGML_TYPE_IQ2_XXS);
    iq2xs_init_impl(GGML_TYPE_IQ2_XS);
    iq2xs_init_impl(GGML_TYPE_IQ2_S);
    iq2xs_init_impl(GGML_TYPE_IQ1_S);
    iq3xs_init_impl(256);
    iq3xs_init_impl(512);
    float importances[RUN], values[RUN];
    unsigned char blocks[RUN * 2];
    for (int i = 0; i < RUN; i++) importances[i] = 1;
    FILE * out = fopen("ggml_blocks.bin", "wb");
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        const int bytes = RUN / types[t].elements * types[t].bytes;
        for (int run = 0; run < RUNS; run++) {
            if (run < ENCODED) {
                for (int i = 0; i < RUN; i++) values[i] = ldexpf(normal(), -5 * run);
                types[t].encode(values, blocks, 1, RUN, importances);
            } else {
                for (int i = 0; i < bytes; i++) blocks[i] = (unsigned char) next();
                for (int at = types[t].scale; at >= 0 && at < bytes; at += types[t].bytes) {
                    const _Float16 d = normal() * 0.01f;
                    memcpy(blocks + at, &d, 2);
                }
            }
            types[t].decode(blocks, values, RUN);
            fwrite(blocks, 1, bytes, out);
            fwrite(values, 4, RUN, out);
        }
    }
    return fclose(out);
}

// What ggml-quants.c needs of the rest of ggml.
void ggml_critical_section_start(void) {}
void ggml_critical_section_end(void) {}
size_t ggml_type_size(enum ggml_type type) { (void) type; abort(); }
const char * ggml_type_name(enum ggml_type type) { (void) type; abort(); }
void ggml_log_internal(enum ggml_log_level level, const char * format, ...) { (void) level; (void) format; }
void ggml_abort(const char * file, int line, const char * format, ...) { (void) file; (void) line; (void) format; abort(); }

size_t ggml_row_size(enum ggml_type type, int64_t elements) {
    switch (type) {
        case GGML_TYPE_Q1_0: return elements / 128 * 18;
        case GGML_TYPE_Q2_0: return elements / 64 * 18;
        case GGML_TYPE_MXFP4: return elements / 32 * 17;
        case GGML_TYPE_NVFP4: return elements / 64 * 36;
        default: abort();
    }
}
