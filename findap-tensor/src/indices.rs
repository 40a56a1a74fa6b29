//! Integers by which ops find rows, slots and lengths.

use findap_kernels::cuda;

use crate::device::{Cuda, Device, Memory};
use crate::error::TensorError;

/// Rows, slots or lengths that ops read: in this process's memory and, for ops on a device, in its memory, too.
#[derive(Debug)]
pub struct Indices {
    values: Vec<u32>,
    memory: Option<Memory>,
}

impl Indices {
    /// Makes room for `capacity` numbers that ops on `device` read.
    ///
    /// # Errors
    /// [`TensorError::OutOfMemory`], [`TensorError::Cuda`].
    pub fn new(device: &Device, capacity: usize) -> Result<Indices, TensorError> {
        let memory = match device {
            Device::Cpu => None,
            Device::Cuda(cuda) => Some(cuda.allocate("indices", 4 * capacity)?),
        };
        Ok(Indices { values: Vec::with_capacity(capacity), memory })
    }

    /// Replaces the numbers.
    ///
    /// # Errors
    /// [`TensorError::Cuda`].
    ///
    /// # Panics
    /// On a device, if there are more than the capacity.
    pub fn set(&mut self, values: impl IntoIterator<Item = u32>) -> Result<(), TensorError> {
        self.values.clear();
        self.values.extend(values);
        match &mut self.memory {
            Some(memory) => memory.write(0, bytemuck::cast_slice(&self.values)),
            None => Ok(()),
        }
    }

    /// The numbers.
    pub fn values(&self) -> &[u32] {
        &self.values
    }

    /// The copy on `cuda`.
    pub(crate) fn on(&self, cuda: &Cuda) -> Result<cuda::Indices, TensorError> {
        let memory = self.memory.as_ref().filter(|memory| memory.cuda().is(cuda)).ok_or_else(|| cuda.is_missing())?;
        Ok(cuda::Indices { address: memory.address(), len: self.values.len() })
    }
}
