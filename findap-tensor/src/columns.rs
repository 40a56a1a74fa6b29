//! Columns of 32-bit words in one allocation of a device: small results and lists by row, which the host reads and writes.

use findap_kernels::Dtype;
use findap_kernels::cuda::{Indices, Operand};

use crate::device::{Cuda, Memory};
use crate::error::TensorError;

/// Columns of equal length one after the other; `column` counts them from 0.
#[derive(Debug)]
pub(crate) struct Columns {
    memory: Memory,
    /// Words per column: a multiple of 4, so that each column begins at a multiple of 16 bytes.
    stride: usize,
}

impl Columns {
    /// Allocates columns of zeros; the error names the `purpose`.
    pub(crate) fn new(cuda: &Cuda, purpose: &'static str, count: usize, rows: usize) -> Result<Columns, TensorError> {
        let stride = rows.next_multiple_of(4);
        let mut memory = cuda.allocate(purpose, 4 * stride * count)?;
        memory.clear()?;
        Ok(Columns { memory, stride })
    }

    pub(crate) fn cuda(&self) -> &Cuda {
        self.memory.cuda()
    }

    /// Words from one column to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    fn offset_bytes(&self, column: usize) -> usize {
        4 * self.stride * column
    }

    /// The address of a column from row `start` on.
    pub(crate) fn address(&self, column: usize, start: usize) -> u64 {
        self.memory.address() + (self.offset_bytes(column) + 4 * start) as u64
    }

    /// `len` whole numbers of a column from row `start` on.
    pub(crate) fn indices(&self, column: usize, start: usize, len: usize) -> Indices {
        Indices { address: self.address(column, start), len }
    }

    /// `len` f32 numbers of a column from row `start` on.
    pub(crate) fn operand(&self, column: usize, start: usize, len: usize) -> Operand {
        Operand { address: self.address(column, start), len, dtype: Dtype::F32 }
    }

    /// Writes the first words of a column, or of it and the next ones.
    pub(crate) fn write(&mut self, column: usize, words: &[u8]) -> Result<(), TensorError> {
        let offset = self.offset_bytes(column);
        self.memory.write(offset, words)
    }

    /// Reads the first words of a column, or of it and the next ones. Waits for the device.
    pub(crate) fn read(&self, column: usize, words: &mut [u8]) -> Result<(), TensorError> {
        self.memory.read(self.offset_bytes(column), words)
    }

    /// Sets the first `count` columns to 0.
    pub(crate) fn clear_first(&mut self, count: usize) -> Result<(), TensorError> {
        let bytes = self.offset_bytes(count);
        self.memory.clear_part(0, bytes)
    }
}
