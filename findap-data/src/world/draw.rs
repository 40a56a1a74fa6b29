//! Seeded choices: one stream of random numbers per purpose, so that a change in one file leaves the others' bytes alone.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// A stream of choices, the same for the same seed and purpose on every machine.
pub(super) struct Draw {
    generator: ChaCha8Rng,
}

impl Draw {
    /// The stream of `purpose` under `seed`.
    pub(super) fn new(seed: u64, purpose: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(seed.to_le_bytes());
        hasher.update(purpose.as_bytes());
        Self { generator: ChaCha8Rng::from_seed(hasher.finalize().into()) }
    }

    /// A number in `0..limit`; `limit` is above 0. The bias of the remainder is below 2^-32 for the limits of a world.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        assert!(limit > 0, "a choice among nothing");
        (self.generator.next_u64() % limit as u64) as usize
    }

    /// A number in `low..=high`.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as usize) as i64
    }

    /// True in `percent` of 100 cases.
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`.
    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// One of `words`.
    pub(super) fn word<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    /// All items in random order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }

    /// `num` different items, in random order; all of them where there are fewer.
    pub(super) fn sample<'a, T>(&mut self, items: &'a [T], num: usize) -> Vec<&'a T> {
        let mut all: Vec<&T> = items.iter().collect();
        self.shuffle(&mut all);
        all.truncate(num);
        all
    }
}
