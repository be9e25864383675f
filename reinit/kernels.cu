// The parts of a packed training step that are not matrix products, as few kernels as the data's way allows.
//
// Law: each computes what its formula says, in float32 whatever its inputs are stored as, and adds up in an order that
// its arguments fix, so that bits repeat. Dropout's bits are a function of (key, site, place), so that the way back draws
// them again instead of storing them.
//
// Compiled with BF16 (0: `low` is float32, 1: it is bfloat16), HEAD, the size of an attention head, ROW_THREADS, the threads
// of a block that has a row, and ITEMS, the fours of columns that each of them has. Short code matters: in a step each
// kernel's instructions are read anew.
// Shapes: N tokens or rows, B texts, H hidden, h heads of size HEAD.

typedef unsigned int u32;
typedef long long i64;

#define TILE 64
#define ROWS 8
#define PAIRS ((HEAD / 2 + 31) / 32)
#define SEGMENT 1024
#define ALL 0xffffffffu
#define LOWEST -3e38f

// ------------------------------------------------------------------------------------------------ storage

__device__ void read4(const float* from, float* to)
{
    float4 four = *(const float4*)from;
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

__device__ void read2(const float* from, float* to)
{
    float2 two = *(const float2*)from;
    to[0] = two.x, to[1] = two.y;
}

__device__ void write4(float* to, const float* from)
{
    float4 four;
    four.x = from[0], four.y = from[1], four.z = from[2], four.w = from[3];
    *(float4*)to = four;
}

__device__ unsigned short rounded(float value)
{
    if (value != value)
        return 0x7fc0;
    u32 bits = __float_as_uint(value);
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // to the nearest, ties to even
}

__device__ void write4(unsigned short* to, const float* from)
{
    ushort4 four;
    four.x = rounded(from[0]), four.y = rounded(from[1]), four.z = rounded(from[2]), four.w = rounded(from[3]);
    *(ushort4*)to = four;
}

#if BF16
typedef unsigned short low;

__device__ float wide(low value) { return __uint_as_float((u32)value << 16); }
__device__ low narrow(float value) { return rounded(value); }

__device__ void read4(const low* from, float* to)
{
    ushort4 four = *(const ushort4*)from;
    to[0] = wide(four.x), to[1] = wide(four.y), to[2] = wide(four.z), to[3] = wide(four.w);
}

__device__ void read2(const low* from, float* to)
{
    u32 two = *(const u32*)from;
    to[0] = __uint_as_float(two << 16), to[1] = __uint_as_float(two & 0xffff0000u);
}

// As they are, without a way through float32.
__device__ void copy4(const low* from, low* to) { *(ushort4*)to = *(const ushort4*)from; }
#else
typedef float low;

__device__ float wide(low value) { return value; }
__device__ low narrow(float value) { return value; }
__device__ void copy4(const low* from, low* to) { *(float4*)to = *(const float4*)from; }
#endif

// ------------------------------------------------------------------------------------------------ sums

__device__ float warp_sum(float value)
{
    for (int far = 16; far; far >>= 1)
        value += __shfl_xor_sync(ALL, value, far);
    return value;
}

__device__ float warp_max(float value)
{
    for (int far = 16; far; far >>= 1)
        value = fmaxf(value, __shfl_xor_sync(ALL, value, far));
    return value;
}

// Of two values over the threads of a block of whole warps.
__device__ float2 block_sums(float first, float second, float2* shared)
{
    first = warp_sum(first), second = warp_sum(second);
    int warps = blockDim.x / 32;
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        shared[threadIdx.x / 32].x = first;
        shared[threadIdx.x / 32].y = second;
    }
    __syncthreads();
    float2 sums;
    sums.x = 0, sums.y = 0;
    for (int warp = 0; warp < warps; warp++)
        sums.x += shared[warp].x, sums.y += shared[warp].y;
    return sums;
}

// ------------------------------------------------------------------------------------------------ dropout

// Philox4x32 with 10 rounds: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.
__device__ void philox(const i64* key, u32 c0, u32 c1, u32 c2, u32* bits)
{
    u32 k0 = (u32)key[0], k1 = (u32)((unsigned long long)key[0] >> 32), c3 = 0;
#pragma unroll 1
    for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        u32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    bits[0] = c0, bits[1] = c1, bits[2] = c2, bits[3] = c3;
}

// Dropped with probability threshold / 2^32, else times `scale`.
struct Dropout {
    const i64* key;
    u32 site, threshold;
    float scale;
};

__device__ void factors4(Dropout drop, u32 place, float* factors)
{
    u32 bits[4] = {0, 0, 0, 0};
    if (drop.threshold)
        philox(drop.key, place / 4, 0, drop.site, bits);
    for (int i = 0; i < 4; i++)
        factors[i] = bits[i] >= drop.threshold ? drop.scale : 0.0f;
}

__device__ float factor(Dropout drop, u32 row, u32 column)
{
    if (!drop.threshold)
        return drop.scale;
    u32 bits[4];
    philox(drop.key, column / 4, row, drop.site, bits);
    u32 own = column % 4 == 0 ? bits[0] : column % 4 == 1 ? bits[1] : column % 4 == 2 ? bits[2] : bits[3];
    return own >= drop.threshold ? drop.scale : 0.0f;
}

// ------------------------------------------------------------------------------------------------ normalisation

// A block has a row, its threads ITEMS fours of columns each. Moments are float32 [N, 2]: mean and reciprocal standard
// deviation.

__device__ int column_of(int item) { return 4 * (threadIdx.x + item * blockDim.x); }

// A row, whose sum over this thread's columns is at hand, becomes norm(row) * gamma + beta.
__device__ void norm_row(float (*values)[4], float sum, const float* gamma, const float* beta, float epsilon, int width,
    float2* shared, float2* moments)
{
    float mean = block_sums(sum, 0, shared).x / width;
    sum = 0;
    for (int item = 0; item < ITEMS; item++)
        if (column_of(item) < width)
            for (int i = 0; i < 4; i++)
                sum += (values[item][i] - mean) * (values[item][i] - mean);
    float inverse = 1 / sqrtf(block_sums(sum, 0, shared).x / width + epsilon);
    for (int item = 0; item < ITEMS; item++) {
        if (column_of(item) >= width)
            continue;
        float scales[4], shifts[4];
        read4(gamma + column_of(item), scales);
        read4(beta + column_of(item), shifts);
        for (int i = 0; i < 4; i++)
            values[item][i] = (values[item][i] - mean) * inverse * scales[i] + shifts[i];
    }
    if (threadIdx.x == 0)
        moments[blockIdx.x].x = mean, moments[blockIdx.x].y = inverse;
}

// The gradient at such a norm's result becomes the one at its row, which is the block's of h.
__device__ void norm_row_back(float (*gradients)[4], const float* h, const float2* moments, const float* gamma, int width,
    float2* shared)
{
    float mean = moments[blockIdx.x].x, inverse = moments[blockIdx.x].y;
    float normal[ITEMS][4], sum = 0, product = 0;
    for (int item = 0; item < ITEMS; item++) {
        if (column_of(item) >= width)
            continue;
        float scales[4];
        read4(h + (i64)blockIdx.x * width + column_of(item), normal[item]);
        read4(gamma + column_of(item), scales);
        for (int i = 0; i < 4; i++) {
            normal[item][i] = (normal[item][i] - mean) * inverse;
            gradients[item][i] *= scales[i];
            sum += gradients[item][i];
            product += gradients[item][i] * normal[item][i];
        }
    }
    float2 sums = block_sums(sum, product, shared);
    for (int item = 0; item < ITEMS; item++)
        for (int i = 0; i < 4 && column_of(item) < width; i++)
            gradients[item][i] = inverse * (gradients[item][i] - sums.x / width - normal[item][i] * sums.y / width);
}

// y = norm(h) * gamma + beta, h = x + dropout(a + bias). x, h, y float32 [N, H]; a, y_low low [N, H].
extern "C" __global__ void norm_forward(const float* x, const low* a, const float* bias, const float* gamma,
    const float* beta, Dropout drop, float epsilon, int width, float* h, float2* moments, float* y, low* y_low)
{
    __shared__ float2 shared[32];
    i64 base = (i64)blockIdx.x * width;
    float values[ITEMS][4], sum = 0;
    for (int item = 0; item < ITEMS; item++) {
        int column = column_of(item);
        if (column >= width)
            continue;
        float added[4], biases[4], factors[4];
        read4(x + base + column, values[item]);
        read4(a + base + column, added);
        read4(bias + column, biases);
        factors4(drop, (u32)(base + column), factors);
        for (int i = 0; i < 4; i++) {
            values[item][i] += factors[i] * (added[i] + biases[i]);
            sum += values[item][i];
        }
        write4(h + base + column, values[item]);
    }
    norm_row(values, sum, gamma, beta, epsilon, width, shared, moments);
    for (int item = 0; item < ITEMS; item++) {
        int column = column_of(item);
        if (column >= width)
            continue;
        write4(y + base + column, values[item]);
        write4(y_low + base + column, values[item]);
    }
}

// The gradient that arrives: g + g_low, each of which may be missing.
__device__ void arrived4(const float* g, const low* g_low, i64 place, float* to)
{
    float more[4] = {0, 0, 0, 0};
    to[0] = to[1] = to[2] = to[3] = 0;
    if (g)
        read4(g + place, to);
    if (g_low)
        read4(g_low + place, more);
    for (int i = 0; i < 4; i++)
        to[i] += more[i];
}

// Gradients to x, float32, and to a, low.
extern "C" __global__ void norm_backward(const float* g, const low* g_low, const float* h, const float2* moments,
    const float* gamma, Dropout drop, int width, float* g_x, low* g_a)
{
    __shared__ float2 shared[32];
    i64 base = (i64)blockIdx.x * width;
    float gradients[ITEMS][4];
    for (int item = 0; item < ITEMS; item++)
        if (column_of(item) < width)
            arrived4(g, g_low, base + column_of(item), gradients[item]);
    norm_row_back(gradients, h, moments, gamma, width, shared);
    for (int item = 0; item < ITEMS; item++) {
        int column = column_of(item);
        if (column >= width)
            continue;
        float factors[4];
        factors4(drop, (u32)(base + column), factors);
        write4(g_x + base + column, gradients[item]);
        for (int i = 0; i < 4; i++)
            gradients[item][i] *= factors[i];
        write4(g_a + base + column, gradients[item]);
    }
}

// Sums over the rows of the threads of one column, of three values; threads are 32 columns by blockDim.y.
__device__ void column_sums3(float* sums, float (*shared)[33])
{
    for (int i = 0; i < 3; i++) {
        __syncthreads();
        shared[threadIdx.y][threadIdx.x] = sums[i];
        __syncthreads();
        sums[i] = 0;
        if (threadIdx.y == 0)
            for (int row = 0; row < (int)blockDim.y; row++)
                sums[i] += shared[row][threadIdx.x];
    }
}

// Gradients to gamma, beta and bias, float32 [H]; g_a as `norm_backward` made it, missing where there was no bias.
extern "C" __global__ void norm_columns(const float* g, const low* g_low, const float* h, const float2* moments,
    const low* g_a, int rows, int width, float* g_gamma, float* g_beta, float* g_bias)
{
    __shared__ float shared[32][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    float sums[3] = {0, 0, 0};
    if (column < width)
        for (int row = threadIdx.y; row < rows; row += blockDim.y) {
            i64 place = (i64)row * width + column;
            float arrived = (g ? g[place] : 0) + (g_low ? wide(g_low[place]) : 0);
            sums[0] += arrived * (h[place] - moments[row].x) * moments[row].y;
            sums[1] += arrived;
            if (g_a)
                sums[2] += wide(g_a[place]);
        }
    column_sums3(sums, shared);
    if (threadIdx.y == 0 && column < width)
        g_gamma[column] = sums[0], g_beta[column] = sums[1];
    if (g_a && threadIdx.y == 0 && column < width)
        g_bias[column] = sums[2];
}

// Sums over rows, float32 [width], of low [rows, width].
extern "C" __global__ void column_sums(const low* values, int rows, int width, float* totals)
{
    __shared__ float shared[32][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    float sums[3] = {0, 0, 0};
    if (column < width)
        for (int row = threadIdx.y; row < rows; row += blockDim.y)
            sums[0] += wide(values[(i64)row * width + column]);
    column_sums3(sums, shared);
    if (threadIdx.y == 0 && column < width)
        totals[column] = sums[0];
}

// ------------------------------------------------------------------------------------------------ activation

// gelu(u + bias), low [N, width]; four values a thread.
extern "C" __global__ void gelu_forward(const low* u, const float* bias, int width, i64 size, low* result)
{
    i64 place = 4 * ((i64)blockIdx.x * blockDim.x + threadIdx.x);
    if (place >= size)
        return;
    float values[4], biases[4];
    read4(u + place, values);
    read4(bias + place % width, biases);
    for (int i = 0; i < 4; i++) {
        float z = values[i] + biases[i];
        values[i] = 0.5f * z * (1 + erff(z * 0.70710678118654752f));
    }
    write4(result + place, values);
}

// The gradient to u and to u + bias, low [N, width]; four values a thread.
extern "C" __global__ void gelu_backward(const low* u, const float* bias, const low* g, int width, i64 size, low* g_u)
{
    i64 place = 4 * ((i64)blockIdx.x * blockDim.x + threadIdx.x);
    if (place >= size)
        return;
    float values[4], biases[4], gradients[4];
    read4(u + place, values);
    read4(bias + place % width, biases);
    read4(g + place, gradients);
    for (int i = 0; i < 4; i++) {
        float z = values[i] + biases[i];
        float slope = 0.5f * (1 + erff(z * 0.70710678118654752f)) + z * 0.39894228040143268f * expf(-0.5f * z * z);
        values[i] = gradients[i] * slope;
    }
    write4(g_u + place, values);
}

// ------------------------------------------------------------------------------------------------ attention

// A block of ROWS warps has ROWS rows one after another of the queries (or keys), a warp a row, and goes over the others that
// texts of these rows have, TILE of them at a time, a lane each. Texts are in order, so that those are one after another.

// Where a text's tokens are, from first to before second: of each token's text, and of each text. A block a text, and one
// for the tokens that fill up. Texts without a token come last: from N to before N.
extern "C" __global__ void text_ranges(const i64* numbers, int tokens, int texts, int2* of_tokens, int2* of_texts)
{
    __shared__ int first, last;
    int text = blockIdx.x;
    if (threadIdx.x == 0)
        first = tokens, last = 0;
    __syncthreads();
    for (int token = threadIdx.x; token < tokens; token += blockDim.x)
        if (numbers[token] == text) {
            atomicMin(&first, token);
            atomicMax(&last, token + 1);
        }
    __syncthreads();
    int2 range;
    range.x = first, range.y = last ? last : tokens;
    for (int token = range.x + threadIdx.x; token < range.y; token += blockDim.x)
        of_tokens[token] = range;
    if (threadIdx.x == 0 && text < texts)
        of_texts[text] = range;
}

// Rows in shared memory; so long that lanes which read theirs at one column do so from different banks.
typedef low Tile[HEAD + 4];
typedef float Wide[HEAD + 4];

// Rows of heads on their way into shared memory: loads that are under way together. The rest of a tile is left as it is.
#define THREADS (32 * ROWS)
#define QUADS(rows) (((rows) * HEAD / 4 + THREADS - 1) / THREADS)

struct __align__(4 * sizeof(low)) Quad {
    low values[4];
};

template <int ROOM> struct Rows {
    Quad quads[QUADS(ROOM)];

    __device__ static int place(int quad) { return 4 * (threadIdx.x + quad * THREADS); }

    __device__ void load(const low* from, i64 stride, int count)
    {
#pragma unroll
        for (int quad = 0; quad < QUADS(ROOM); quad++)
            if (place(quad) < count * HEAD)
                copy4(from + place(quad) / HEAD * stride + place(quad) % HEAD, quads[quad].values);
    }

    __device__ void store(int count, Tile* tile)
    {
#pragma unroll
        for (int quad = 0; quad < QUADS(ROOM); quad++)
            if (place(quad) < count * HEAD)
                copy4(quads[quad].values, &tile[place(quad) / HEAD][place(quad) % HEAD]);
    }

    // As float32, times a factor.
    __device__ void store(int count, float times, Wide* rows)
    {
#pragma unroll
        for (int quad = 0; quad < QUADS(ROOM); quad++)
            if (place(quad) < count * HEAD) {
                float four[4];
                for (int i = 0; i < 4; i++)
                    four[i] = times * wide(quads[quad].values[i]);
                write4(&rows[place(quad) / HEAD][place(quad) % HEAD], four);
            }
    }

    // Each four values' part of the sum over a row of these times those.
    __device__ void store_parts(const Rows& those, int count, float (*parts)[HEAD / 4 + 1])
    {
#pragma unroll
        for (int quad = 0; quad < QUADS(ROOM); quad++)
            if (place(quad) < count * HEAD) {
                float part = 0;
                for (int i = 0; i < 4; i++)
                    part += wide(quads[quad].values[i]) * wide(those.quads[quad].values[i]);
                parts[place(quad) / HEAD][place(quad) % HEAD / 4] = part;
            }
    }
};

__device__ float sum_of_parts(const float* parts)
{
    float sum = 0;
#pragma unroll
    for (int i = 0; i < HEAD / 4; i++)
        sum += parts[i];
    return sum;
}

__device__ float dot(const float* left, const low* right)
{
    float sums[4] = {0, 0, 0, 0};
#pragma unroll 4
    for (int column = 0; column < HEAD; column += 4) {
        float ours[4], theirs[4];
        read4(left + column, ours);
        read4(right + column, theirs);
        for (int i = 0; i < 4; i++)
            sums[i] += ours[i] * theirs[i];
    }
    return sums[0] + sums[1] + (sums[2] + sums[3]);
}

// sums += sum over the lanes in `lanes` of weight * row; they are one after another. A lane has every 32nd pair of columns.
__device__ void add_weighted(float weight, u32 lanes, const Tile* rows, int lane, float (*sums)[2])
{
    int from = __ffs(lanes) - 1, to = 32 - __clz(lanes);
#pragma unroll 4
    for (int row = from; row < to; row++) {
        float own = __shfl_sync(ALL, weight, row);
        for (int i = 0; i < PAIRS; i++)
            if (lane + 32 * i < HEAD / 2) {
                float pair[2];
                read2(&rows[row][2 * (lane + 32 * i)], pair);
                sums[i][0] += own * pair[0];
                sums[i][1] += own * pair[1];
            }
    }
}

__device__ void write_row(low* to, const float (*sums)[2], int lane, float times)
{
    for (int i = 0; i < PAIRS; i++)
        if (lane + 32 * i < HEAD / 2) {
            to[2 * (lane + 32 * i)] = narrow(sums[i][0] * times);
            to[2 * (lane + 32 * i) + 1] = narrow(sums[i][1] * times);
        }
}

__device__ int at_most(int value, int most) { return value < most ? value : most; }

// dropout(softmax(scale * q k')) v within each text: a block for (ROWS queries, head).
// q low [queries, q_stride] with the ranges of their texts: all tokens, or a token of each text; k, v low [N, kv_stride]; out
// low and logs, the logarithm of the softmax's denominator, in the order of q. Queries of texts without a token get zeros.
extern "C" __global__ void __launch_bounds__(32 * ROWS) attention_forward(const low* q, i64 q_stride, const low* k,
    const low* v, i64 kv_stride, const int2* ranges, int queries, float scale, Dropout drop, low* out, float* logs)
{
    __shared__ __align__(16) Wide asking[ROWS];
    __shared__ __align__(16) Tile keys[TILE], values[TILE];
    int head = blockIdx.y, heads = gridDim.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row0 = blockIdx.x * ROWS, own = at_most(ROWS, queries - row0), query = row0 + warp;
    i64 column0 = (i64)head * HEAD;
    int from = ranges[row0].x, to = ranges[row0 + own - 1].y;
    int2 text;
    text.x = text.y = 0;
    if (warp < own)
        text = ranges[query];
    Rows<ROWS> rows;
    rows.load(q + row0 * q_stride + column0, q_stride, own);
    rows.store(own, scale, asking);
    float sums[PAIRS][2], most = LOWEST, total = 0;
    for (int i = 0; i < PAIRS; i++)
        sums[i][0] = sums[i][1] = 0;
    for (int start = from; start < to; start += TILE) {
        int count = at_most(TILE, to - start);
        Rows<TILE> k_rows, v_rows;
        k_rows.load(k + start * kv_stride + column0, kv_stride, count);
        v_rows.load(v + start * kv_stride + column0, kv_stride, count);
        __syncthreads();
        k_rows.store(count, keys);
        v_rows.store(count, values);
        __syncthreads();
#pragma unroll 1
        for (int half = 0; half < TILE; half += 32) {
            int key = start + half + lane;
            bool is_own = text.x <= key && key < text.y && half + lane < count;
            u32 lanes = __ballot_sync(ALL, is_own);
            if (!lanes)
                continue;
            float score = is_own ? dot(asking[warp], keys[half + lane]) : LOWEST;
            float higher = fmaxf(most, warp_max(score)), shrink = expf(most - higher);
            float weight = is_own ? expf(score - higher) : 0;
            total = total * shrink + warp_sum(weight);
            most = higher;
            for (int i = 0; i < PAIRS; i++)
                sums[i][0] *= shrink, sums[i][1] *= shrink;
            weight *= factor(drop, (u32)(query * heads + head), (u32)key);
            add_weighted(weight, lanes, values + half, lane, sums);
        }
    }
    if (warp >= own)
        return;
    write_row(out + (i64)query * heads * HEAD + column0, sums, lane, total > 0 ? 1 / total : 0);
    if (lane == 0)
        logs[query * heads + head] = total > 0 ? most + logf(total) : 0;
}

// Gradients to q, k and v, in their layout with strides of their own; even z for queries, odd z for keys and values.
// `token_ranges` are those of keys; `firsts`, where queries are not all tokens, numbers texts by queries.
extern "C" __global__ void __launch_bounds__(32 * ROWS, 3) attention_backward(const low* q, i64 q_stride, const low* k,
    const low* v, i64 kv_stride, const int2* ranges, int queries, float scale, Dropout drop, const int2* token_ranges,
    const i64* numbers, int tokens, int firsts, const low* out, const float* logs, const low* g, low* g_q,
    i64 g_q_stride, low* g_k, low* g_v, i64 g_kv_stride)
{
    // Queries and what arrives at them, or keys and values.
    __shared__ __align__(16) Wide mine[ROWS], mine_too[ROWS];
    __shared__ __align__(16) Tile others[TILE], others_too[TILE];
    __shared__ float parts[TILE][HEAD / 4 + 1];
    bool is_query = blockIdx.z == 0;
    int head = blockIdx.y, heads = gridDim.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row0 = blockIdx.x * ROWS, own = at_most(ROWS, (is_query ? queries : tokens) - row0), row = row0 + warp;
    if (own <= 0)
        return;
    i64 column0 = (i64)head * HEAD, g_stride = (i64)heads * HEAD;
    const low *q0 = q + column0, *k0 = k + column0, *v0 = v + column0, *g0 = g + column0, *out0 = out + column0;
    // The others of the block's rows, and of the warp's own: token after token, or the text's one query.
    int2 all, text;
    text.x = text.y = 0;
    if (!is_query && firsts) {
        all.x = (int)numbers[row0], all.y = at_most((int)numbers[row0 + own - 1] + 1, queries);
        if (warp < own)
            text.x = (int)numbers[row], text.y = at_most(text.x + 1, queries);
    } else {
        const int2* of_rows = is_query ? ranges : token_ranges;
        all.x = of_rows[row0].x, all.y = of_rows[row0 + own - 1].y;
        if (warp < own)
            text = of_rows[row];
    }
    float delta = 0, log_sum = 0;
    if (is_query) {
        Rows<ROWS> q_rows, g_rows, out_rows;
        q_rows.load(q0 + row0 * q_stride, q_stride, own);
        g_rows.load(g0 + row0 * g_stride, g_stride, own);
        out_rows.load(out0 + row0 * g_stride, g_stride, own);
        q_rows.store(own, scale, mine);
        g_rows.store(own, 1, mine_too);
        g_rows.store_parts(out_rows, own, parts);
        __syncthreads();
        if (warp < own) {
            delta = sum_of_parts(parts[warp]);
            log_sum = logs[row * heads + head];
        }
    } else {
        Rows<ROWS> k_rows, v_rows;
        k_rows.load(k0 + row0 * kv_stride, kv_stride, own);
        v_rows.load(v0 + row0 * kv_stride, kv_stride, own);
        k_rows.store(own, scale, mine);
        v_rows.store(own, 1, mine_too);
    }
    float sums[PAIRS][2], more[PAIRS][2];
    for (int i = 0; i < PAIRS; i++)
        sums[i][0] = sums[i][1] = more[i][0] = more[i][1] = 0;
    for (int start = all.x; start < all.y; start += TILE) {
        int count = at_most(TILE, all.y - start);
        // Keys and values, or queries, what arrives at them and what came of them.
        Rows<TILE> a_rows, b_rows, out_rows;
        if (is_query) {
            a_rows.load(k0 + start * kv_stride, kv_stride, count);
            b_rows.load(v0 + start * kv_stride, kv_stride, count);
        } else {
            a_rows.load(q0 + start * q_stride, q_stride, count);
            b_rows.load(g0 + start * g_stride, g_stride, count);
            out_rows.load(out0 + start * g_stride, g_stride, count);
        }
        __syncthreads();
        a_rows.store(count, others);
        b_rows.store(count, others_too);
        if (!is_query)
            b_rows.store_parts(out_rows, count, parts);
        __syncthreads();
#pragma unroll 1
        for (int half = 0; half < TILE; half += 32) {
            int place = half + lane, other = start + place;
            bool is_own = text.x <= other && other < text.y && place < count;
            u32 lanes = __ballot_sync(ALL, is_own);
            if (!lanes)
                continue;
            float dropped = 0, change = 0;
            if (is_own) {
                int query = is_query ? row : other, key = is_query ? other : row;
                if (!is_query) {
                    delta = sum_of_parts(parts[place]);
                    log_sum = logs[query * heads + head];
                }
                float probability = expf(dot(mine[warp], others[place]) - log_sum);
                float kept = factor(drop, (u32)(query * heads + head), (u32)key);
                dropped = probability * kept;
                change = probability * (dot(mine_too[warp], others_too[place]) * kept - delta);
            }
            add_weighted(change, lanes, others + half, lane, sums);
            if (!is_query)
                add_weighted(dropped, lanes, others_too + half, lane, more);
        }
    }
    if (warp >= own)
        return;
    if (is_query)
        write_row(g_q + row * g_q_stride + column0, sums, lane, scale);
    else {
        write_row(g_k + row * g_kv_stride + column0, sums, lane, scale);
        write_row(g_v + row * g_kv_stride + column0, more, lane, 1);
    }
}

// ------------------------------------------------------------------------------------------------ rows

// Rows `places` of x float32 [N, H] and x_low; a block a row of the result.
extern "C" __global__ void take_forward(
    const float* x, const low* x_low, const i64* places, int width, float* y, low* y_low)
{
    i64 from = places[blockIdx.x] * width, to = (i64)blockIdx.x * width;
    for (int column = threadIdx.x; column < width; column += blockDim.x) {
        y[to + column] = x[from + column];
        y_low[to + column] = x_low[from + column];
    }
}

// The gradient to x: of each row the sum of those taken from it, in their order, zero where there is none.
extern "C" __global__ void take_backward(
    const float* g, const low* g_low, const i64* places, int taken, int width, float* g_x)
{
    for (int column = threadIdx.x; column < width; column += blockDim.x) {
        float sum = 0;
        for (int row = 0; row < taken; row++)
            if (places[row] == blockIdx.x) {
                sum += g[(i64)row * width + column];
                if (g_low)
                    sum += wide(g_low[(i64)row * width + column]);
            }
        g_x[(i64)blockIdx.x * width + column] = sum;
    }
}

// ------------------------------------------------------------------------------------------------ embeddings

// y = dropout(norm(h) * gamma + beta), h = word[ids] + position[positions] + type[types], the last where there is one.
extern "C" __global__ void embed_forward(const float* word, const i64* ids, const float* position, const i64* positions,
    const float* type, const i64* types, const float* gamma, const float* beta, Dropout drop, float epsilon, int width,
    float* h, float2* moments, float* y, low* y_low)
{
    __shared__ float2 shared[32];
    i64 base = (i64)blockIdx.x * width;
    float values[ITEMS][4], sum = 0;
    for (int item = 0; item < ITEMS; item++) {
        int column = column_of(item);
        if (column >= width)
            continue;
        float more[4], types4[4] = {0, 0, 0, 0};
        read4(word + ids[blockIdx.x] * width + column, values[item]);
        read4(position + positions[blockIdx.x] * width + column, more);
        if (type)
            read4(type + types[blockIdx.x] * width + column, types4);
        for (int i = 0; i < 4; i++) {
            values[item][i] += types4[i] + more[i];
            sum += values[item][i];
        }
        write4(h + base + column, values[item]);
    }
    norm_row(values, sum, gamma, beta, epsilon, width, shared, moments);
    for (int item = 0; item < ITEMS; item++) {
        int column = column_of(item);
        if (column >= width)
            continue;
        float factors[4];
        factors4(drop, (u32)(base + column), factors);
        for (int i = 0; i < 4; i++)
            values[item][i] *= factors[i];
        write4(y + base + column, values[item]);
        write4(y_low + base + column, values[item]);
    }
}

// What arrives at the norm, and the gradient to h, float32 [N, H].
extern "C" __global__ void embed_backward(const float* g, const low* g_low, const float* h, const float2* moments,
    const float* gamma, Dropout drop, int width, float* at_norm, float* g_h)
{
    __shared__ float2 shared[32];
    i64 base = (i64)blockIdx.x * width;
    float gradients[ITEMS][4];
    for (int item = 0; item < ITEMS; item++) {
        int column = column_of(item);
        if (column >= width)
            continue;
        float factors[4];
        arrived4(g, g_low, base + column, gradients[item]);
        factors4(drop, (u32)(base + column), factors);
        for (int i = 0; i < 4; i++)
            gradients[item][i] *= factors[i];
        write4(at_norm + base + column, gradients[item]);
    }
    norm_row_back(gradients, h, moments, gamma, width, shared);
    for (int item = 0; item < ITEMS; item++)
        if (column_of(item) < width)
            write4(g_h + base + column_of(item), gradients[item]);
}

// Of up to three embeddings: the row that each row of g came from, the row without a gradient, and the gradient.
struct Tables {
    const i64* rows[3];
    float* totals[3];
    int paddings[3];
};

// Adds rows of g up in the rows of embeddings that they came from; totals are zero before. A block for (a row of g, an
// embedding): the first row of its kind adds up all of them, threads of one y every so many'th.
#define PARTS 4
extern "C" __global__ void embedding_rows(const float* g, Tables tables, int count, int width)
{
    __shared__ int alike[SEGMENT], number;
    __shared__ float shared[PARTS][4 * ROW_THREADS];
    const i64* rows = tables.rows[blockIdx.y];
    i64 own = rows[blockIdx.x];
    if (own == tables.paddings[blockIdx.y])
        return;
    // Columns of the threads of one y, and where this block's begin.
    int columns = 4 * blockDim.x, part = threadIdx.y;
    for (int column0 = 0; column0 < width; column0 += columns) {
        int column = column0 + 4 * threadIdx.x;
        float sums[4] = {0, 0, 0, 0};
        for (int start = 0; start < count; start += SEGMENT) {
            __syncthreads();
            if (part == 0 && threadIdx.x < 32) {
                int found = 0;
                for (int from = start; from < start + SEGMENT && from < count; from += 32) {
                    int row = from + threadIdx.x;
                    u32 same = __ballot_sync(ALL, row < count && rows[row] == own);
                    if (same >> threadIdx.x & 1)
                        alike[found + __popc(same & ((1u << threadIdx.x) - 1))] = row;
                    found += __popc(same);
                }
                if (threadIdx.x == 0)
                    number = found;
            }
            __syncthreads();
            if (number && alike[0] < (int)blockIdx.x)
                return;
            if (column < width)
#pragma unroll 8
                for (int index = part; index < number; index += PARTS) {
                    float more[4];
                    read4(g + (i64)alike[index] * width + column, more);
                    for (int i = 0; i < 4; i++)
                        sums[i] += more[i];
                }
        }
        for (int i = 0; i < 4; i++)
            shared[part][4 * threadIdx.x + i] = sums[i];
        __syncthreads();
        if (part == 0 && column < width) {
            for (int other = 1; other < PARTS; other++)
                for (int i = 0; i < 4; i++)
                    sums[i] += shared[other][4 * threadIdx.x + i];
            write4(tables.totals[blockIdx.y] + own * width + column, sums);
        }
    }
}

// ------------------------------------------------------------------------------------------------ loss

// The weighted sum of the texts' losses, float32 [], and its gradient, float32 [B, outputs]: cross-entropy with classes, or
// the squared error of one output. Labels and weights float64 [B], logits float32. One block; a thread has every
// so many'th text.
extern "C" __global__ void losses(const float* logits, const double* labels, const double* weights, int texts, int outputs,
    int regression, float* loss, float* g)
{
    __shared__ float2 shared[32];
    float sum = 0;
    for (int text = threadIdx.x; text < texts; text += blockDim.x) {
        const float* own = logits + (i64)text * outputs;
        float* back = g + (i64)text * outputs;
        float weight = (float)weights[text], label = (float)labels[text];
        if (regression) {
            float error = own[0] - label;
            sum += weight * (error * error);
            back[0] = weight * (2 * error);
            continue;
        }
        float most = own[0], total = 0;
        for (int i = 1; i < outputs; i++)
            most = fmaxf(most, own[i]);
        for (int i = 0; i < outputs; i++)
            total += expf(own[i] - most);
        float log_total = logf(total) + most;
        sum += weight * (log_total - own[(int)label]);
        for (int i = 0; i < outputs; i++)
            back[i] = weight * (expf(own[i] - log_total) - (i == (int)label));
    }
    sum = block_sums(sum, 0, shared).x;
    if (threadIdx.x == 0)
        loss[0] = sum;
}

// ------------------------------------------------------------------------------------------------ the gradient's norm

// Up to SEVERAL gradients: where each is, how many values it has, and how many blocks those before it have.
#define SEVERAL 4
struct Gradients {
    const float* values[SEVERAL];
    i64 sizes[SEVERAL];
    int before[SEVERAL];
};

// Sums of squares of SQUARED values each, of one gradient after another.
#define SQUARED 16384
extern "C" __global__ void squares(Gradients gradients, int count, float* totals)
{
    __shared__ float2 shared[32];
    const float* values = gradients.values[0];
    i64 size = gradients.sizes[0];
    int before = 0;
#pragma unroll
    for (int i = 1; i < SEVERAL; i++)
        if (i < count && (int)blockIdx.x >= gradients.before[i])
            values = gradients.values[i], size = gradients.sizes[i], before = gradients.before[i];
    i64 from = (i64)((int)blockIdx.x - before) * SQUARED, to = from + SQUARED < size ? from + SQUARED : size;
    i64 fours = to - to % 4;
    float sum = 0;
#pragma unroll 4
    for (i64 place = from + 4 * threadIdx.x; place < fours; place += 4 * blockDim.x) {
        float four[4];
        read4(values + place, four);
        sum += four[0] * four[0] + four[1] * four[1] + (four[2] * four[2] + four[3] * four[3]);
    }
    if (threadIdx.x < to - fours)
        sum += values[fours + threadIdx.x] * values[fours + threadIdx.x];
    sum = block_sums(sum, 0, shared).x;
    if (threadIdx.x == 0)
        totals[blockIdx.x] = sum;
}

// The root of the sum of `count` values, by one block; and 1 where the loss is not finite, else 0.
extern "C" __global__ void root_of_sum(const float* values, int count, const float* loss, float* root, float* is_bad)
{
    __shared__ float2 shared[32];
    float sum = 0;
    for (int place = threadIdx.x; place < count; place += blockDim.x)
        sum += values[place];
    sum = block_sums(sum, 0, shared).x;
    if (threadIdx.x == 0)
        root[0] = sqrtf(sum), is_bad[0] = fabsf(loss[0]) <= 3.4028234e38f ? 0 : 1;
}

// ------------------------------------------------------------------------------------------------ AdamW

// What AdamW needs of a parameter.
struct Trained {
    float *parameter, *first, *second, *step;
    const float* gradient;
    void* copy;  // of the parameter, of its own shape; may be missing
    i64 size, copy_is_bf16;
};

// One more step of each parameter, unless `skip`: its two corrections. What gradients are divided by to be clipped.
extern "C" __global__ void adamw_begin(const Trained* trained, int count, const float* norm, const float* skip,
    float clip, double beta1, double beta2, float2* corrections, float* divisor)
{
    for (int index = threadIdx.x; index < count; index += blockDim.x) {
        float step = trained[index].step[0] + (1 - skip[0]);
        trained[index].step[0] = step;
        corrections[index].x = (float)(1 - pow(beta1, (double)step));
        corrections[index].y = (float)sqrt(1 - pow(beta2, (double)step));
    }
    if (threadIdx.x == 0)
        divisor[0] = fmaxf(1.0f, (norm[0] + 1e-6f) / clip);
}

__device__ void adamw_one(float& parameter, float gradient, float& first, float& second, float rate, float decay,
    float beta1, float beta2, float epsilon, float2 correction)
{
    parameter -= rate * decay * parameter;
    first += (1 - beta1) * (gradient - first);
    second = beta2 * second + (1 - beta2) * gradient * gradient;
    parameter -= rate / correction.x * first / (sqrtf(second) / correction.y + epsilon);
}

// A block for PIECE values of one parameter: `pieces` names the parameter and which of its pieces.
#define PIECE 2048
extern "C" __global__ void adamw(const Trained* trained, const int2* pieces, const float2* corrections,
    const float* divisor, const float* skip, float rate, float decay, float beta1, float beta2, float epsilon)
{
    if (skip[0] != 0)
        return;
    Trained own = trained[pieces[blockIdx.x].x];
    float2 correction = corrections[pieces[blockIdx.x].x];
    i64 from = (i64)pieces[blockIdx.x].y * PIECE, to = from + PIECE < own.size ? from + PIECE : own.size;
    float times = 1 / divisor[0];
    i64 fours = to - to % 4;
    for (i64 place = from + 4 * threadIdx.x; place < fours; place += 4 * blockDim.x) {
        float p[4], g[4], m[4], v[4];
        read4(own.parameter + place, p);
        read4(own.gradient + place, g);
        read4(own.first + place, m);
        read4(own.second + place, v);
        for (int i = 0; i < 4; i++)
            adamw_one(p[i], g[i] * times, m[i], v[i], rate, decay, beta1, beta2, epsilon, correction);
        write4(own.parameter + place, p);
        write4(own.first + place, m);
        write4(own.second + place, v);
        if (own.copy && own.copy_is_bf16)
            write4((unsigned short*)own.copy + place, p);
        else if (own.copy)
            write4((float*)own.copy + place, p);
    }
    i64 one = fours + threadIdx.x;
    if (one < to) {
        adamw_one(own.parameter[one], own.gradient[one] * times, own.first[one], own.second[one], rate, decay, beta1, beta2,
            epsilon, correction);
        if (own.copy && own.copy_is_bf16)
            ((unsigned short*)own.copy)[one] = rounded(own.parameter[one]);
        else if (own.copy)
            ((float*)own.copy)[one] = own.parameter[one];
    }
}
