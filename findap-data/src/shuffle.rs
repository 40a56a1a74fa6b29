//! The one seeded shuffle.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A permutation of `0..len` that depends on nothing but its arguments. `stream` separates uses of one seed.
pub(crate) fn permutation(len: usize, seed: u64, stream: u64) -> Vec<u32> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream);
    let mut order: Vec<u32> = (0..u32::try_from(len).expect("invariant: fewer than 2^32 rows")).collect();
    for last in (1..len).rev() {
        let other = generator.random_range(0..=last as u64) as usize;
        order.swap(last, other);
    }
    order
}
