/* Products of matrices G [slots, rows, columns] with vectors from both sides, each matrix read from memory once:
 *   by_right[s, p, i] = sum over o of left[s, p, o] G[s, o, i]
 *   by_left[s, p, o]  = sum over i of right[s, p, i] G[s, o, i]
 * Sums are in float; matrices are in float, or bytes of 0 and 1 (masks). Everything is contiguous.
 * Four rows at a time: the loads and stores of by_right are shared between them, and four streams keep the memory busy.
 */
#include <stdint.h>
#include <string.h>

static inline float from_float(float value) { return value; }

static inline float from_bool(uint8_t value) { return value; }

#define BOTH_PRODUCTS(NAME, TYPE, WIDEN)                                                                                      \
    static void NAME##_of_slot(const TYPE *restrict g, const float *restrict left, const float *restrict right,               \
                               float *restrict by_right, float *restrict by_left, int64_t positions, int64_t rows,            \
                               int64_t columns)                                                                               \
    {                                                                                                                         \
        memset(by_right, 0, sizeof(float) * positions * columns);                                                             \
        int64_t o = 0;                                                                                                        \
        for (; o + 4 <= rows; o += 4) {                                                                                       \
            const TYPE *g0 = g + o * columns, *g1 = g0 + columns, *g2 = g1 + columns, *g3 = g2 + columns;                     \
            for (int64_t p = 0; p < positions; p++) {                                                                         \
                const float *l = left + p * rows + o, *r = right + p * columns;                                               \
                const float l0 = l[0], l1 = l[1], l2 = l[2], l3 = l[3];                                                       \
                float *out = by_right + p * columns;                                                                          \
                float s0 = 0, s1 = 0, s2 = 0, s3 = 0;                                                                         \
                _Pragma("omp simd reduction(+ : s0, s1, s2, s3)")                                                             \
                for (int64_t i = 0; i < columns; i++) {                                                                       \
                    const float a = WIDEN(g0[i]), b = WIDEN(g1[i]), c = WIDEN(g2[i]), d = WIDEN(g3[i]), x = r[i];             \
                    out[i] += (l0 * a + l1 * b) + (l2 * c + l3 * d);                                                          \
                    s0 += a * x;                                                                                              \
                    s1 += b * x;                                                                                              \
                    s2 += c * x;                                                                                              \
                    s3 += d * x;                                                                                              \
                }                                                                                                             \
                float *sums = by_left + p * rows + o;                                                                         \
                sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;                                                       \
            }                                                                                                                 \
        }                                                                                                                     \
        for (; o < rows; o++) {                                                                                               \
            const TYPE *row = g + o * columns;                                                                                \
            for (int64_t p = 0; p < positions; p++) {                                                                         \
                const float *r = right + p * columns, l = left[p * rows + o];                                                 \
                float *out = by_right + p * columns, sum = 0;                                                                 \
                _Pragma("omp simd reduction(+ : sum)")                                                                        \
                for (int64_t i = 0; i < columns; i++) {                                                                       \
                    const float a = WIDEN(row[i]);                                                                            \
                    out[i] += l * a;                                                                                          \
                    sum += a * r[i];                                                                                          \
                }                                                                                                             \
                by_left[p * rows + o] = sum;                                                                                  \
            }                                                                                                                 \
        }                                                                                                                     \
    }                                                                                                                         \
                                                                                                                              \
    void NAME(const TYPE *g, const float *left, const float *right, float *by_right, float *by_left, int64_t slots,           \
              int64_t positions, int64_t rows, int64_t columns, int threads)                                                  \
    {                                                                                                                         \
        _Pragma("omp parallel for num_threads(threads) schedule(dynamic)")                                                    \
        for (int64_t s = 0; s < slots; s++)                                                                                   \
            NAME##_of_slot(g + s * rows * columns, left + s * positions * rows, right + s * positions * columns,              \
                           by_right + s * positions * columns, by_left + s * positions * rows, positions, rows, columns);     \
    }

BOTH_PRODUCTS(both_products_float, float, from_float)
BOTH_PRODUCTS(both_products_bool, uint8_t, from_bool)
