//! The tokens of a batch, where the ops read them.

use std::sync::Arc;

use findap_kernels::attention::cuda::{PlacedTiles, Tiles};
use findap_kernels::cuda::Indices;
use findap_kernels::{check, embedding};

use crate::device::{Cuda, Memory};
use crate::error::TensorError;

/// Packed documents, one after the other.
#[derive(Clone, Debug)]
pub struct Documents<'a> {
    /// `[n]`.
    pub ids: &'a [u32],
    /// `[n]`, from 0 in each document.
    pub positions: &'a [u32],
    /// `[documents + 1]`: where documents begin, and n.
    pub cu_seqlens: &'a [u32],
    placed: Option<Arc<DocumentMemory>>,
}

impl<'a> Documents<'a> {
    /// Makes documents for ops on the CPU.
    pub fn on_host(ids: &'a [u32], positions: &'a [u32], cu_seqlens: &'a [u32]) -> Self {
        Documents { ids, positions, cu_seqlens, placed: None }
    }

    /// Makes documents for ops on a device; they must be those last written to `memory`.
    pub fn on_device(
        ids: &'a [u32],
        positions: &'a [u32],
        cu_seqlens: &'a [u32],
        memory: &Arc<DocumentMemory>,
    ) -> Self {
        Documents { ids, positions, cu_seqlens, placed: Some(Arc::clone(memory)) }
    }

    /// The copy on `cuda`.
    pub(crate) fn on(&self, cuda: &Cuda) -> Result<&Placed, TensorError> {
        let placed = self.placed.as_ref().filter(|memory| memory.memory.cuda().is(cuda));
        let placed = placed.and_then(|memory| memory.placed.as_ref());
        placed.ok_or_else(|| cuda.is_missing())
    }
}

/// Memory of a device for the documents of batches up to a size, and for what the kernels derive from them.
#[derive(Debug)]
pub struct DocumentMemory {
    memory: Memory,
    words: Vec<u32>,
    placed: Option<Placed>,
}

/// The arrays in the memory of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) ids: Indices,
    pub(crate) positions: Indices,
    /// The lists of [`embedding::cuda::SortedIds`].
    pub(crate) sorted_tokens: Indices,
    pub(crate) sorted_starts: Indices,
    pub(crate) sorted_positions: Indices,
    pub(crate) tiles: PlacedTiles,
}

/// Arrays start at multiples of this many words (16 bytes).
const ALIGNED: usize = 4;

impl DocumentMemory {
    /// Allocates memory for at most `max_tokens` tokens in any number of documents.
    ///
    /// # Errors
    /// [`TensorError::OutOfMemory`], [`TensorError::Cuda`].
    pub fn new(cuda: &Cuda, max_tokens: usize) -> Result<Self, TensorError> {
        // five arrays of the tokens, one of them longer by one; at worst each token is a tile, of 8 words
        let words = 13 * max_tokens + 1 + 6 * ALIGNED;
        Ok(Self {
            memory: cuda.allocate("the tokens of a batch", 4 * words)?,
            words: Vec::with_capacity(words),
            placed: None,
        })
    }

    /// Writes the documents of a batch whose ids are below `vocab` and positions below `max_positions`.
    ///
    /// # Errors
    /// [`IdOutOfRange`](findap_kernels::KernelError::IdOutOfRange), `ShapeMismatch` or `BadOffsets` of the kernels; [`TensorError::Cuda`].
    ///
    /// # Panics
    /// If there are more tokens than the memory is for.
    pub fn write(
        &mut self,
        ids: &[u32],
        positions: &[u32],
        cu_seqlens: &[u32],
        vocab: usize,
        max_positions: usize,
    ) -> Result<(), TensorError> {
        self.placed = None;
        check::ids("embedding::forward", "ids", ids, vocab)?;
        check::ids("rope::forward", "positions", positions, max_positions)?;
        let n = cu_seqlens.last().map_or(0, |&n| n as usize);
        check::length("embedding::forward", "ids", ids.len(), n)?;
        check::length("rope::forward", "positions", positions.len(), n)?;
        let sorted = embedding::cuda::sort(ids);
        let tiles = Tiles::new(cu_seqlens)?;
        self.words.clear();
        let mut place = |numbers: &[u32]| {
            let start = self.words.len();
            self.words.extend_from_slice(numbers);
            self.words.resize(self.words.len().next_multiple_of(ALIGNED), 0);
            Indices { address: self.memory.address() + 4 * start as u64, len: numbers.len() }
        };
        let placed = Placed {
            ids: place(ids),
            positions: place(positions),
            sorted_tokens: place(&sorted.tokens),
            sorted_starts: place(&sorted.starts),
            sorted_positions: place(&sorted.positions),
            tiles: tiles.placed_at(place(tiles.words()))?,
        };
        self.memory.write(0, bytemuck::cast_slice(&self.words))?;
        self.placed = Some(placed);
        Ok(())
    }
}
