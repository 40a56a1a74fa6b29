//! How far an f32 kernel may be from the truth. The only place with tolerances for comparisons of f32 with f64.
//!
//! The truth y64 is the definition in f64 over the same (f32) inputs; the yardstick is y32, the plain definition in f32.
//! Elementwise,
//!
//! |y - y64| <= FACTOR |y32 - y64| + floor
//!
//! A fast kernel sums in another order than the definition, so its error is another draw from the same distribution: a
//! factor of 2 forward and 3 backward (one more product of rounded factors) separates "another order" from "less precise".
//! Where the definition happens to be exact the factor says nothing; the floor then allows a random walk of roundings: a sum
//! of `length` terms of size `scale` in f32 is off by about u scale sqrt(length) with u = 2^-24 (Higham and Mary 2019,
//! SIAM J. Sci. Comput. 41(5), theorem 2.4, with its constant lambda = 8, which holds with a probability above 1 - 1e-12).

/// Forward passes.
pub(crate) const FORWARD: f64 = 2.0;
/// Backward passes.
pub(crate) const BACKWARD: f64 = 3.0;

/// The error that a sum of `length` terms of size `scale` may have where the yardstick has none.
pub(crate) fn floor(scale: f64, length: usize) -> f64 {
    const UNIT: f64 = 1.0 / (1u64 << 24) as f64;
    8.0 * UNIT * scale * (length as f64).sqrt()
}

/// The largest magnitude, as the scale of a floor.
pub(crate) fn scale(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |scale, x| scale.max(x.abs()))
}

/// Fails unless every number obeys the rule above.
pub(crate) fn assert_follows(what: &str, got: &[f32], naive: &[f32], truth: &[f64], factor: f64, floor: f64) {
    assert_eq!((got.len(), naive.len()), (truth.len(), truth.len()), "{what}");
    for (i, ((&got, &naive), &truth)) in got.iter().zip(naive).zip(truth).enumerate() {
        let (error, yardstick) = ((f64::from(got) - truth).abs(), (f64::from(naive) - truth).abs());
        // written so that NaN fails
        let holds = error <= factor * yardstick + floor;
        assert!(holds, "{what}[{i}]: {got}, naive {naive}, truth {truth}: off by {error:e}, floor {floor:e}");
    }
}
