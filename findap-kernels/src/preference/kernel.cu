// Weights of the tokens of preference pairs, from the log-probabilities of their answers:
//
// m = beta ((c - c0) - (r - r0)),  dL/dc = -(beta / P) sigmoid(-m) - a s,  dL/dr = (beta / P) sigmoid(-m)
//
// Documents 2 i and 2 i + 1 are the answers of pair i. One block of 8 warps does all pairs: warp w has pairs w, w + 8, ..; its lanes
// sum a document's log-probabilities in f64 and write its weights. The terms of the loss add up pair by pair in a warp, then warp by
// warp, so their bits depend on the pairs alone. Shared memory: 384 static bytes.
// Limit: latency; some thousand tokens between two passes over all layers. Bytes a token: 12 (log-probability and target read, weight
// written), of which the first eight come from the cache the second time.

constexpr u32 IGNORE = 0xffffffffu;
constexpr int WARPS = 8, TERMS = 6;

// What is known of a pair beforehand.
struct Pair {
    double reference_chosen, reference_rejected, likelihood_scale;
};

DEVICE double document_sum(const float* logp, const u32* targets, u32 begin, u32 end, int lane) {
    double sum = 0.0;
    for (u32 t = begin + lane; t < end; t += WARP_THREADS)
        if (targets[t] != IGNORE) sum += logp[t];
    return warp_sum(sum);
}

DEVICE void token_weights_document(float* weights, const u32* targets, u32 begin, u32 end, int lane, float weight) {
    for (u32 t = begin + lane; t < end; t += WARP_THREADS)
        weights[t] = targets[t] == IGNORE ? 0.0f : weight;
}

// ln(1 + e^x) without overflow.
DEVICE double softplus(double x) { return fmax(x, 0.0) + log1p(exp(-fabs(x))); }

// `loss` and `terms` grow by those of all pairs.
extern "C" __global__ void __launch_bounds__(256)
    preference_token_weights(double* loss, double* terms, float* weights, const float* logp, const u32* targets,
                     const u32* cu_seqlens, const double* pairs, u32 num_pairs, double beta, double likelihood_weight,
                     double step_pairs) {
    SHARED_ARRAY(double, sums, WARPS * TERMS);
    const int warp = threadIdx.x / WARP_THREADS, lane = threadIdx.x % WARP_THREADS;
    double of_warp[TERMS] = {};
    for (u32 i = warp; i < num_pairs; i += WARPS) {
        const Pair pair = {pairs[3 * i], pairs[3 * i + 1], pairs[3 * i + 2]};
        const u32 begin = cu_seqlens[2 * i], middle = cu_seqlens[2 * i + 1], end = cu_seqlens[2 * i + 2];
        const double chosen = document_sum(logp, targets, begin, middle, lane);
        const double rejected = document_sum(logp, targets, middle, end, lane);
        const double reward_chosen = beta * (chosen - pair.reference_chosen);
        const double reward_rejected = beta * (rejected - pair.reference_rejected);
        const double margin = reward_chosen - reward_rejected;
        const double pull = beta / (1.0 + exp(margin)) / step_pairs;
        const double push = pull + likelihood_weight * pair.likelihood_scale;
        token_weights_document(weights, targets, begin, middle, lane, (float)-push);
        token_weights_document(weights, targets, middle, end, lane, (float)pull);
        of_warp[0] += softplus(-margin) / step_pairs;
        of_warp[1] -= pair.likelihood_scale * chosen;
        of_warp[2] += reward_chosen / step_pairs;
        of_warp[3] += reward_rejected / step_pairs;
        of_warp[4] += margin / step_pairs;
        of_warp[5] += margin > 0.0 ? 1.0 / step_pairs : 0.0;
    }
    if (lane == 0) {
        UNROLL
        for (int k = 0; k < TERMS; k++)
            sums[warp * TERMS + k] = of_warp[k];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double total[TERMS] = {};
        for (int w = 0; w < WARPS; w++) {
            UNROLL
            for (int k = 0; k < TERMS; k++)
                total[k] += sums[w * TERMS + k];
        }
        UNROLL
        for (int k = 0; k < TERMS; k++)
            terms[k] += total[k];
        *loss += total[0] + likelihood_weight * total[1];
    }
}
KERNEL_ENTRY(preference_token_weights);
