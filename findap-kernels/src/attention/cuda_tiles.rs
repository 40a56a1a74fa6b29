//! The tiles of packed documents that the kernels walk through.

use std::cmp::Reverse;

use super::{MAX_GRID, TILE_ROWS};
use crate::check;
use crate::cuda::operand::{Indices, aligned, to_u32};
use crate::cuda::{Arg, Operand};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The tiles of packed documents, in the orders in which kernels take them: most work first, so that a device is not left
/// waiting for one long tile at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiles {
    words: Vec<u32>,
    num_tokens: usize,
}

impl Tiles {
    /// For documents with the boundaries `cu_seqlens` = `[0, .., n]`. No tile crosses a boundary; empty documents have none.
    ///
    /// # Errors
    /// [`KernelError::BadOffsets`]; [`KernelError::BadArgument`] for more tiles or tokens than a launch can take.
    pub fn new(cu_seqlens: &[u32]) -> Result<Self, KernelError> {
        const OP: &str = "attention::cuda::Tiles::new";
        let num_tokens = cu_seqlens.last().map_or(0, |&n| n as usize);
        check::offsets(OP, "cu_seqlens", cu_seqlens, num_tokens)?;
        to_u32(OP, "cu_seqlens", num_tokens + TILE_ROWS)?;
        let documents = cu_seqlens.windows(2).map(|document| (document[0], document[1]));
        let mut tiles: Vec<[u32; 4]> = documents
            .flat_map(|(start, end)| (start..end).step_by(TILE_ROWS).map(move |first| [first, start, end, 0]))
            .collect();
        let claim = tiles.len() <= MAX_GRID;
        check::holds(
            OP,
            "cu_seqlens",
            tiles.len() as f64,
            claim,
            "documents that make at most 65535 tiles of 128 tokens",
        )?;
        let mut words = Vec::with_capacity(8 * tiles.len());
        // rows as queries see the keys before them, rows as keys the queries after them
        tiles.sort_by_key(|&[first, start, ..]| Reverse(first - start));
        words.extend(tiles.iter().flatten());
        tiles.sort_by_key(|&[first, _, end, _]| Reverse(end - first));
        words.extend(tiles.iter().flatten());
        Ok(Self { words, num_tokens })
    }

    /// `[2, tiles, 4]`: (first row, start, end, 0) of each tile, ordered for rows as queries, then as keys.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.words.len() / 8
    }

    /// Whether all documents are empty.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The tiles at the place that the words have been copied to, a multiple of 16.
    ///
    /// # Errors
    /// [`KernelError::ShapeMismatch`], [`KernelError::BadArgument`].
    pub fn placed_at(&self, words: Indices) -> Result<PlacedTiles, KernelError> {
        const OP: &str = "attention::cuda::Tiles::placed_at";
        let Indices { address, len } = words;
        check::length(OP, "words", len, self.words.len())?;
        aligned(OP, "words", &Operand { address, len, dtype: Dtype::F32 })?;
        Ok(PlacedTiles { address, num_tiles: self.len(), num_tokens: self.num_tokens })
    }
}

/// [`Tiles`] in the memory of an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedTiles {
    address: u64,
    pub(super) num_tiles: usize,
    pub(super) num_tokens: usize,
}

impl PlacedTiles {
    pub(super) fn by_queries(&self) -> Arg {
        Arg::Address(self.address)
    }

    pub(super) fn by_keys(&self) -> Arg {
        Arg::Address(self.address + 16 * self.num_tiles as u64)
    }
}
