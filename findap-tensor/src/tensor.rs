//! Owned and borrowed matrices.

use findap_kernels::aligned::Aligned;
use findap_kernels::cuda::Operand;
use findap_kernels::{Dtype, Slice, SliceMut};
use half::bf16;

use crate::device::{Cuda, Device, Memory};
use crate::error::TensorError;

/// Contiguous numbers in rows. Higher ranks are rows of flattened trailing dimensions: `[n, heads, head_dim]` is a tensor of
/// n rows and heads * head_dim columns.
#[derive(Clone, Debug)]
pub struct Tensor {
    rows: usize,
    columns: usize,
    data: Data,
}

#[derive(Debug)]
enum Data {
    F32(Aligned<f32>),
    F64(Aligned<f64>),
    Bf16(Aligned<bf16>),
    Device(Memory, Dtype),
}

/// Numbers that an op reads, and the memory they are in.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// Numbers in this process's memory.
    Host(Slice<'a>),
    /// Numbers in a device's memory.
    Device(DeviceSlice<'a>),
}

/// Numbers that an op writes, and the memory they are in.
#[derive(Debug)]
pub enum NumbersMut<'a> {
    /// Numbers in this process's memory.
    Host(SliceMut<'a>),
    /// Numbers in a device's memory.
    Device(DeviceSlice<'a>),
}

/// Numbers in the memory of a device, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSlice<'a> {
    cuda: &'a Cuda,
    operand: Operand,
}

/// Some rows of a tensor, read-only.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Rows.
    pub rows: usize,
    /// Numbers per row.
    pub columns: usize,
    /// The numbers.
    pub data: Numbers<'a>,
}

/// Some rows of a tensor, written.
#[derive(Debug)]
pub struct ViewMut<'a> {
    /// Rows.
    pub rows: usize,
    /// Numbers per row.
    pub columns: usize,
    /// The numbers.
    pub data: NumbersMut<'a>,
}

/// The most bytes that [`Tensor::write_with`] takes at a time.
pub const MAX_FILL_BYTES: usize = crate::staging::PIECE_BYTES;

impl Tensor {
    /// Makes a tensor of zeros in this process's memory.
    pub fn zeros(dtype: Dtype, rows: usize, columns: usize) -> Tensor {
        let len = rows * columns;
        let data = match dtype {
            Dtype::F32 => Data::F32(Aligned::zeros(len)),
            Dtype::F64 => Data::F64(Aligned::zeros(len)),
            Dtype::Bf16 => Data::Bf16(Aligned::zeros(len)),
        };
        Tensor { rows, columns, data }
    }

    /// Makes a tensor of zeros in the memory of `device`; the error names the `purpose`.
    ///
    /// # Errors
    /// [`TensorError::OutOfMemory`], [`TensorError::Cuda`].
    pub fn zeros_on(
        device: &Device,
        purpose: &'static str,
        dtype: Dtype,
        rows: usize,
        columns: usize,
    ) -> Result<Tensor, TensorError> {
        let Device::Cuda(cuda) = device else { return Ok(Tensor::zeros(dtype, rows, columns)) };
        let mut memory = cuda.allocate(purpose, rows * columns * dtype.size_bytes())?;
        memory.clear()?;
        Ok(Tensor { rows, columns, data: Data::Device(memory, dtype) })
    }

    /// The device whose memory has the numbers.
    pub fn device(&self) -> Device {
        match &self.data {
            Data::Device(memory, _) => Device::Cuda(memory.cuda().clone()),
            _ => Device::Cpu,
        }
    }

    /// The storage format.
    pub fn dtype(&self) -> Dtype {
        match &self.data {
            Data::F32(_) => Dtype::F32,
            Data::F64(_) => Dtype::F64,
            Data::Bf16(_) => Dtype::Bf16,
            Data::Device(_, dtype) => *dtype,
        }
    }

    /// Rows.
    pub fn num_rows(&self) -> usize {
        self.rows
    }

    /// Numbers per row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Count of numbers.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype().size_bytes()
    }

    /// All numbers, for a tensor on the host.
    ///
    /// # Panics
    /// If it is on a device; [`Tensor::read`] copies from there.
    pub fn slice(&self) -> Slice<'_> {
        match &self.data {
            Data::F32(x) => Slice::F32(x),
            Data::F64(x) => Slice::F64(x),
            Data::Bf16(x) => Slice::Bf16(x),
            Data::Device(memory, _) => panic!("invariant: the numbers are not on {:?}", memory.cuda()),
        }
    }

    /// All numbers, to be written, for a tensor on the host.
    ///
    /// # Panics
    /// If it is on a device; [`Tensor::write`] copies to there.
    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        match &mut self.data {
            Data::F32(x) => SliceMut::F32(x),
            Data::F64(x) => SliceMut::F64(x),
            Data::Bf16(x) => SliceMut::Bf16(x),
            Data::Device(memory, _) => panic!("invariant: the numbers are not on {:?}", memory.cuda()),
        }
    }

    /// Copies numbers of the tensor's format to it, from number `start` on.
    ///
    /// # Errors
    /// [`TensorError::Cuda`].
    ///
    /// # Panics
    /// If the format is another or the numbers reach past the end.
    pub fn write(&mut self, start: usize, numbers: Slice<'_>) -> Result<(), TensorError> {
        assert_eq!(numbers.dtype(), self.dtype(), "invariant: copies keep the format");
        let end = start + numbers.len();
        match (&mut self.data, numbers) {
            (Data::Device(memory, dtype), numbers) => memory.write(start * dtype.size_bytes(), bytes(&numbers))?,
            (Data::F32(x), Slice::F32(y)) => x[start..end].copy_from_slice(y),
            (Data::F64(x), Slice::F64(y)) => x[start..end].copy_from_slice(y),
            (Data::Bf16(x), Slice::Bf16(y)) => x[start..end].copy_from_slice(y),
            _ => unreachable!("the formats are the same"),
        }
        Ok(())
    }

    /// Lets `fill` write `len` numbers from number `start` on. To a device they are copied while the host goes on.
    ///
    /// # Errors
    /// [`TensorError::Cuda`].
    ///
    /// # Panics
    /// If they reach past the end; on a device, also for more than [`MAX_FILL_BYTES`], and if `fill` writes to the same device.
    pub fn write_with<T>(
        &mut self,
        start: usize,
        len: usize,
        fill: impl FnOnce(SliceMut<'_>) -> T,
    ) -> Result<T, TensorError> {
        if let Data::Device(memory, dtype) = &mut self.data {
            let (dtype, size_bytes) = (*dtype, dtype.size_bytes());
            return memory.write_with(start * size_bytes, len * size_bytes, |bytes| {
                fill(match dtype {
                    Dtype::F32 => SliceMut::F32(bytemuck::cast_slice_mut(bytes)),
                    Dtype::F64 => SliceMut::F64(bytemuck::cast_slice_mut(bytes)),
                    Dtype::Bf16 => SliceMut::Bf16(bytemuck::cast_slice_mut(bytes)),
                })
            });
        }
        Ok(fill(self.slice_mut().sub(start..start + len)))
    }

    /// Copies numbers from number `start` on out of the tensor, after everything queued so far.
    ///
    /// # Errors
    /// [`TensorError::Cuda`], also for an earlier op that failed on the device.
    ///
    /// # Panics
    /// If the format is another or the numbers reach past the end.
    pub fn read(&self, start: usize, mut numbers: SliceMut<'_>) -> Result<(), TensorError> {
        assert_eq!(numbers.dtype(), self.dtype(), "invariant: copies keep the format");
        let end = start + numbers.len();
        match (&self.data, &mut numbers) {
            (Data::Device(memory, dtype), numbers) => memory.read(start * dtype.size_bytes(), bytes_mut(numbers))?,
            (Data::F32(x), SliceMut::F32(y)) => y.copy_from_slice(&x[start..end]),
            (Data::F64(x), SliceMut::F64(y)) => y.copy_from_slice(&x[start..end]),
            (Data::Bf16(x), SliceMut::Bf16(y)) => y.copy_from_slice(&x[start..end]),
            _ => unreachable!("the formats are the same"),
        }
        Ok(())
    }

    /// Copies the tensor to this process's memory.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn to_host(&self) -> Result<Tensor, TensorError> {
        let mut host = Tensor::zeros(self.dtype(), self.rows, self.columns);
        self.read(0, host.slice_mut())?;
        Ok(host)
    }

    /// The memory of a tensor on a device; `None` on the host.
    pub(crate) fn memory_mut(&mut self) -> Option<&mut Memory> {
        match &mut self.data {
            Data::Device(memory, _) => Some(memory),
            _ => None,
        }
    }

    /// All rows.
    pub fn all(&self) -> View<'_> {
        self.rows(self.rows)
    }

    /// All rows, to be written.
    pub fn all_mut(&mut self) -> ViewMut<'_> {
        self.rows_mut(self.rows)
    }

    /// The first `n` rows.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn rows(&self, n: usize) -> View<'_> {
        self.part(0, n, self.columns)
    }

    /// The first `n` rows, to be written.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn rows_mut(&mut self, n: usize) -> ViewMut<'_> {
        self.part_mut(0, n, self.columns)
    }

    /// The numbers from `start` on as rows.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn part(&self, start: usize, rows: usize, columns: usize) -> View<'_> {
        let data = match &self.data {
            Data::Device(memory, dtype) => {
                Numbers::Device(device_slice(memory, *dtype, self.len(), start, rows * columns))
            }
            _ => Numbers::Host(self.slice().sub(start..start + rows * columns)),
        };
        View { rows, columns, data }
    }

    /// The numbers from `start` on as rows, to be written.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn part_mut(&mut self, start: usize, rows: usize, columns: usize) -> ViewMut<'_> {
        let (len, range) = (self.len(), start..start + rows * columns);
        let data = match &mut self.data {
            Data::Device(memory, dtype) => NumbersMut::Device(device_slice(memory, *dtype, len, start, range.len())),
            Data::F32(x) => NumbersMut::Host(SliceMut::F32(&mut x[range])),
            Data::F64(x) => NumbersMut::Host(SliceMut::F64(&mut x[range])),
            Data::Bf16(x) => NumbersMut::Host(SliceMut::Bf16(&mut x[range])),
        };
        ViewMut { rows, columns, data }
    }
}

impl Clone for Data {
    /// # Panics
    /// If the memory of the device is used up or the device has failed.
    fn clone(&self) -> Self {
        match self {
            Data::F32(x) => Data::F32(x.clone()),
            Data::F64(x) => Data::F64(x.clone()),
            Data::Bf16(x) => Data::Bf16(x.clone()),
            Data::Device(memory, dtype) => {
                Data::Device(memory.copy().expect("memory for a copy on the device"), *dtype)
            }
        }
    }
}

fn device_slice(memory: &Memory, dtype: Dtype, total: usize, start: usize, len: usize) -> DeviceSlice<'_> {
    assert!(start + len <= total, "invariant: rows {start}..{start}+{len} of {total} numbers");
    let address = memory.address() + (start * dtype.size_bytes()) as u64;
    DeviceSlice { cuda: memory.cuda(), operand: Operand { address, len, dtype } }
}

/// The bytes of numbers as they lie in memory.
fn bytes<'a>(numbers: &Slice<'a>) -> &'a [u8] {
    match *numbers {
        Slice::F32(x) => bytemuck::cast_slice(x),
        Slice::F64(x) => bytemuck::cast_slice(x),
        Slice::Bf16(x) => bytemuck::cast_slice(x),
    }
}

fn bytes_mut<'a>(numbers: &'a mut SliceMut<'_>) -> &'a mut [u8] {
    match numbers {
        SliceMut::F32(x) => bytemuck::cast_slice_mut(x),
        SliceMut::F64(x) => bytemuck::cast_slice_mut(x),
        SliceMut::Bf16(x) => bytemuck::cast_slice_mut(x),
    }
}

impl DeviceSlice<'_> {
    /// The address and length, for an op on `cuda`.
    fn on(&self, cuda: &Cuda) -> Result<Operand, TensorError> {
        if self.cuda.is(cuda) {
            Ok(self.operand)
        } else {
            Err(other_device(format!("{cuda:?}"), format!("{:?}", self.cuda)))
        }
    }
}

fn other_device(wanted: String, found: String) -> TensorError {
    TensorError::OtherDevice { wanted, found }
}

impl<'a> View<'a> {
    /// The same numbers as rows of another length: each row of `[n, h * e]` as h rows of e.
    ///
    /// # Panics
    /// If they are not as many.
    #[must_use]
    pub fn reshaped(self, rows: usize, columns: usize) -> View<'a> {
        assert_eq!(rows * columns, self.rows * self.columns, "invariant: another shape of as many numbers");
        View { rows, columns, data: self.data }
    }

    /// The storage format.
    pub fn dtype(&self) -> Dtype {
        match &self.data {
            Numbers::Host(slice) => slice.dtype(),
            Numbers::Device(slice) => slice.operand.dtype,
        }
    }

    /// The numbers, if they are in this process's memory.
    ///
    /// # Errors
    /// [`TensorError::OtherDevice`].
    pub fn host(&self) -> Result<Slice<'a>, TensorError> {
        match self.data {
            Numbers::Host(slice) => Ok(slice),
            Numbers::Device(slice) => Err(other_device("the CPU".to_owned(), format!("{:?}", slice.cuda))),
        }
    }

    /// The device that has the numbers, if it is not the CPU.
    pub(crate) fn cuda(&self) -> Option<&'a Cuda> {
        match self.data {
            Numbers::Host(_) => None,
            Numbers::Device(slice) => Some(slice.cuda),
        }
    }

    /// The numbers for an op on `cuda`.
    pub(crate) fn on(&self, cuda: &Cuda) -> Result<Operand, TensorError> {
        match &self.data {
            Numbers::Host(_) => Err(other_device(format!("{cuda:?}"), "the CPU".to_owned())),
            Numbers::Device(slice) => slice.on(cuda),
        }
    }
}

impl<'a> ViewMut<'a> {
    /// The same numbers as rows of another length, to be written, as [`View::reshaped`].
    ///
    /// # Panics
    /// If they are not as many.
    #[must_use]
    pub fn reshaped(self, rows: usize, columns: usize) -> ViewMut<'a> {
        assert_eq!(rows * columns, self.rows * self.columns, "invariant: another shape of as many numbers");
        ViewMut { rows, columns, data: self.data }
    }

    /// A read-only view of the same rows.
    pub fn as_view(&self) -> View<'_> {
        let data = match &self.data {
            NumbersMut::Host(slice) => Numbers::Host(slice.as_const()),
            NumbersMut::Device(slice) => Numbers::Device(*slice),
        };
        View { rows: self.rows, columns: self.columns, data }
    }

    /// A view of the same rows, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        let data = match &mut self.data {
            NumbersMut::Host(slice) => NumbersMut::Host(slice.reborrow()),
            NumbersMut::Device(slice) => NumbersMut::Device(*slice),
        };
        ViewMut { rows: self.rows, columns: self.columns, data }
    }

    /// The storage format.
    pub fn dtype(&self) -> Dtype {
        self.as_view().dtype()
    }

    /// The numbers, if they are in this process's memory.
    ///
    /// # Errors
    /// [`TensorError::OtherDevice`].
    pub fn host(self) -> Result<SliceMut<'a>, TensorError> {
        match self.data {
            NumbersMut::Host(slice) => Ok(slice),
            NumbersMut::Device(slice) => Err(other_device("the CPU".to_owned(), format!("{:?}", slice.cuda))),
        }
    }

    /// The device that has the numbers, if it is not the CPU.
    pub(crate) fn cuda(&self) -> Option<&'a Cuda> {
        match &self.data {
            NumbersMut::Host(_) => None,
            NumbersMut::Device(slice) => Some(slice.cuda),
        }
    }

    /// The numbers for an op on `cuda`.
    pub(crate) fn on(&self, cuda: &Cuda) -> Result<Operand, TensorError> {
        self.as_view().on(cuda)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_a_prefix_of_the_memory() {
        let mut t = Tensor::zeros(Dtype::F64, 3, 4);
        t.rows_mut(2).host().unwrap().copy_from_f64(&[1.0; 8]);
        assert_eq!(t.slice().to_f64_vec(), [[1.0; 8].as_slice(), &[0.0; 4]].concat());
        assert_eq!((t.rows(1).host().unwrap().len(), t.bytes(), t.num_rows(), t.columns()), (4, 96, 3, 4));
    }

    #[test]
    fn rows_of_heads_are_the_same_numbers() {
        let mut t = Tensor::zeros(Dtype::F64, 3, 6);
        let numbers: Vec<f64> = (0..18).map(f64::from).collect();
        t.all_mut().reshaped(9, 2).host().unwrap().copy_from_f64(&numbers);
        assert_eq!(t.slice().to_f64_vec(), numbers);
        let heads = t.rows(2).reshaped(6, 2);
        assert_eq!((heads.rows, heads.columns, heads.dtype()), (6, 2, Dtype::F64));
        assert_eq!(heads.host().unwrap().to_f64_vec(), numbers[..12]);
        assert_eq!(t.rows(0).reshaped(0, 7).host().unwrap().len(), 0);
    }

    #[test]
    #[should_panic(expected = "invariant: another shape of as many numbers")]
    fn another_shape_has_as_many_numbers() {
        let _ = Tensor::zeros(Dtype::F32, 3, 6).all().reshaped(4, 5);
    }

    #[test]
    #[should_panic(expected = "invariant: another shape of as many numbers")]
    fn another_shape_has_as_many_numbers_to_be_written() {
        let _ = Tensor::zeros(Dtype::F32, 3, 6).all_mut().reshaped(3, 7);
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn numbers_go_to_a_device_and_back() {
        let device = Device::emulated(findap_kernels::emulator::Options::PLAIN);
        let other = Device::emulated(findap_kernels::emulator::Options::PLAIN);
        let mut t = Tensor::zeros_on(&device, "a test", Dtype::F32, 2, 4).unwrap();
        t.write(4, (&[1.0f32, 2.0, 3.0, 9.0][..]).into()).unwrap();
        t.write_with(7, 1, |mut place| place.copy_from_f64(&[4.0])).unwrap();
        let copy = t.clone();
        assert_eq!(copy.to_host().unwrap().slice().to_f64_vec(), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!((t.device() == device, t.device() == other, device == Device::Cpu), (true, false, false));
        assert!(matches!(t.all().host(), Err(TensorError::OtherDevice { .. })));
        let (Device::Cuda(this), Device::Cuda(that)) = (&device, &other) else { panic!("both are devices") };
        assert_eq!(t.all().on(this).unwrap().len, 8);
        assert_eq!(t.all().reshaped(4, 2).on(this).unwrap(), t.all().on(this).unwrap());
        assert_eq!(t.all_mut().reshaped(8, 1).on(this).unwrap().len, 8);
        assert!(matches!(t.all().on(that), Err(TensorError::OtherDevice { .. })));
        assert!(matches!(Tensor::zeros(Dtype::F32, 1, 1).all().on(this), Err(TensorError::OtherDevice { .. })));
        let error = Tensor::zeros_on(&device, "a test", Dtype::F32, 1 << 24, 1 << 24).unwrap_err();
        assert!(error.to_string().starts_with("1125899906842624 bytes for a test do not fit"), "{error}");
    }
}
