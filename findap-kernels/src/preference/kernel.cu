// Weights of the tokens of preference pairs, from the log-probabilities of their answers:
//
// L = sum over pairs of f(c - c0, r - r0) / P - a s C,  dL/dC = (df/dc) / P - a s,  dL/dR = (df/dr) / P
//
// f is one of the forms of `PairLoss` in mod.rs, which says what the letters are.
// Documents 2 i and 2 i + 1 are the answers of pair i. One block of 8 warps does all pairs: warp w has pairs w, w + 8, ..; its lanes
// sum a document's log-probabilities in f64 and write its weights. The terms of the loss add up pair by pair in a warp, then warp by
// warp, so their bits depend on the pairs alone. Shared memory: 512 static bytes.
// Limit: latency; some thousand tokens between two passes over all layers. Bytes a token: 12 (log-probability and target read, weight
// written), of which the first eight come from the cache the second time.

constexpr u32 IGNORE = 0xffffffffu;
constexpr int WARPS = 8, TERMS = 8;

// The forms of f, by the numbers that cuda.rs gives them.
constexpr u32 DPO = 0, ROBUST = 1, HINGE = 2, IPO = 3, SIMPO = 4, ORPO = 5;

// The greatest mean log-probability that f32 tells from 0, where the odds are infinite: 1 - 2^-24 is the number below 1.
constexpr double LARGEST_LOGP = -0x1p-24;

// What is known of a pair beforehand.
struct Pair {
    double reference_chosen, reference_rejected, likelihood_scale;
};

// An answer as the policy sees it: the sum of its tokens' log-probabilities, and how many they are.
struct Answer {
    double logp, tokens;
};

// f, with minus its derivative by c and plus that by r: both are positive where the chosen answer is to gain on the rejected one.
struct PairTerms {
    double loss, pull, push;
};

DEVICE Answer read_answer(const float* logp, const u32* targets, u32 begin, u32 end, int lane) {
    double sum = 0.0, tokens = 0.0;
    for (u32 t = begin + lane; t < end; t += WARP_THREADS)
        if (targets[t] != IGNORE) {
            sum += logp[t];
            tokens += 1.0;
        }
    sum = warp_sum(sum);
    return {sum, fmax(warp_sum(tokens), 1.0)};
}

DEVICE void token_weights_document(float* weights, const u32* targets, u32 begin, u32 end, int lane, float weight) {
    for (u32 t = begin + lane; t < end; t += WARP_THREADS)
        weights[t] = targets[t] == IGNORE ? 0.0f : weight;
}

// ln(1 + e^x) without overflow.
DEVICE double softplus(double x) { return fmax(x, 0.0) + log1p(exp(-fabs(x))); }

// scale sigmoid(x)
DEVICE double scaled_sigmoid(double scale, double x) { return scale / (1.0 + exp(-x)); }

DEVICE PairTerms smoothed(double margin, double label_smoothing, double beta) {
    const double kept = 1.0 - label_smoothing;
    const double pull = kept * scaled_sigmoid(beta, -margin) - label_smoothing * scaled_sigmoid(beta, margin);
    return {kept * softplus(-margin) + label_smoothing * softplus(margin), pull, pull};
}

DEVICE PairTerms debiased(double margin, double label_smoothing, double beta) {
    const double kept = 1.0 - label_smoothing, scale = 1.0 - 2.0 * label_smoothing;
    const double loss = kept * softplus(-margin) - label_smoothing * softplus(margin);
    const double pull = kept * scaled_sigmoid(beta, -margin) + label_smoothing * scaled_sigmoid(beta, margin);
    return {loss / scale, pull / scale, pull / scale};
}

DEVICE PairTerms odds_ratio(double x, double y, double beta) {
    x = fmin(x, LARGEST_LOGP);
    y = fmin(y, LARGEST_LOGP);
    const double not_x = -expm1(x), not_y = -expm1(y);
    const double log_odds = (x - y) - (log(not_x) - log(not_y));
    const double pull = scaled_sigmoid(beta, -log_odds);
    return {beta * softplus(-log_odds), pull / not_x, pull / not_y};
}

DEVICE PairTerms pair_terms(u32 form, double x, double y, double margin, double x_tokens, double y_tokens, double beta,
                            double label_smoothing, double gamma) {
    switch (form) {
    case ROBUST: return debiased(margin, label_smoothing, beta);
    case HINGE: {
        const double pull = margin < 1.0 ? beta : 0.0;
        return {fmax(1.0 - margin, 0.0), pull, pull};
    }
    case IPO: {
        const double missing = 1.0 / (2.0 * beta) - (x / x_tokens - y / y_tokens);
        return {missing * missing, 2.0 * missing / x_tokens, 2.0 * missing / y_tokens};
    }
    case SIMPO: return smoothed(margin - gamma, label_smoothing, beta);
    case ORPO: return odds_ratio(x, y, beta);
    case DPO: break;
    }
    return smoothed(margin, label_smoothing, beta);
}

// `loss` and `terms` grow by those of all pairs.
extern "C" __global__ void __launch_bounds__(256)
    preference_token_weights(double* loss, double* terms, float* weights, const float* logp, const u32* targets,
                     const u32* cu_seqlens, const double* pairs, u32 num_pairs, u32 form, double label_smoothing,
                     double gamma, double beta, double likelihood_weight, double step_pairs) {
    SHARED_ARRAY(double, sums, WARPS * TERMS);
    const int warp = threadIdx.x / WARP_THREADS, lane = threadIdx.x % WARP_THREADS;
    double* of_warp = sums + warp * TERMS; // of lane 0, which keeps them here rather than in 16 registers
    if (lane == 0) {
        UNROLL
        for (int k = 0; k < TERMS; k++)
            of_warp[k] = 0.0;
    }
    for (u32 i = warp; i < num_pairs; i += WARPS) {
        const Pair pair = {pairs[3 * i], pairs[3 * i + 1], pairs[3 * i + 2]};
        const u32 begin = cu_seqlens[2 * i], middle = cu_seqlens[2 * i + 1], end = cu_seqlens[2 * i + 2];
        const Answer chosen = read_answer(logp, targets, begin, middle, lane);
        const Answer rejected = read_answer(logp, targets, middle, end, lane);
        const bool has_reference = form != SIMPO && form != ORPO;
        const double chosen_length = has_reference ? 1.0 : chosen.tokens;
        const double rejected_length = has_reference ? 1.0 : rejected.tokens;
        const double logp_chosen = chosen.logp / chosen_length, logp_rejected = rejected.logp / rejected_length;
        const double x = logp_chosen - pair.reference_chosen, y = logp_rejected - pair.reference_rejected;
        const double reward_chosen = beta * x, reward_rejected = beta * y;
        const double margin = reward_chosen - reward_rejected;
        const PairTerms of_pair =
            pair_terms(form, x, y, margin, chosen.tokens, rejected.tokens, beta, label_smoothing, gamma);
        const double pull = of_pair.pull / chosen_length / step_pairs + likelihood_weight * pair.likelihood_scale;
        const double push = of_pair.push / rejected_length / step_pairs;
        token_weights_document(weights, targets, begin, middle, lane, (float)-pull);
        token_weights_document(weights, targets, middle, end, lane, (float)push);
        if (lane == 0) {
            of_warp[0] += of_pair.loss / step_pairs;
            of_warp[1] -= pair.likelihood_scale * chosen.logp;
            of_warp[2] += reward_chosen / step_pairs;
            of_warp[3] += reward_rejected / step_pairs;
            of_warp[4] += margin / step_pairs;
            of_warp[5] += margin > 0.0 ? 1.0 / step_pairs : 0.0;
            of_warp[6] += logp_chosen / step_pairs;
            of_warp[7] += logp_rejected / step_pairs;
        }
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
