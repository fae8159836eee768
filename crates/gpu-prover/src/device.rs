//! A device in use: its context, its kernels, its memory.

// Memory is copied as CUDA's functions have it, and ranges of the arena are slices of it.
#![allow(unsafe_code)]

use crate::F;
use crate::arena::{Full, Ranges};
use crate::driver::{self, DriverError};
use cust::CudaFlags;
use cust::context::Context;
use cust::error::CudaError;
use cust::function::{BlockSize, Function, GridSize};
use cust::memory::{CopyDestination, DeviceBuffer, DevicePointer, DeviceSlice, mem_get_info};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use plonky2::field::types::PrimeField64;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Threads of a block. A hash keeps its state in registers, of which more threads would leave too few.
const BLOCK: u32 = 128;
/// What is left to the driver of a device whose arena has no bound: for kernels' stacks, and for what else uses the device.
const LEFT_TO_THE_DRIVER: usize = 512 << 20;
const ELEMENT_BYTES: usize = size_of::<u64>();

/// A device in use, by one thread. What is computed is in order; reading waits for it.
#[derive(Debug, Clone)]
pub struct Device(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    ordinal: u32,
    // Dropped in this order: the context last.
    pub(crate) stream: Stream,
    module: Module,
    memory: DeviceBuffer<u64>,
    ranges: RefCell<Ranges>,
    /// Bytes that were copied to it and from it.
    transferred: Cell<[u64; 2]>,
    _context: Context,
}

/// What a device's arena has, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaUse {
    /// All of it.
    pub size: usize,
    /// Taken now.
    pub used: usize,
    /// The most that was taken at a time.
    pub most_used: usize,
}

/// The kernels: those that this program was built with, unless the driver is an emulated one and has them itself.
fn kernels() -> Result<&'static [u8], DriverError> {
    if driver::has_kernels() {
        return Ok(b"the driver's own");
    }
    #[cfg(has_kernels)]
    return Ok(include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));
    #[cfg(not(has_kernels))]
    Err(DriverError::NoKernels)
}

impl Device {
    /// Opens a device, and takes its memory: so many bytes, or all that is free but for what the driver needs.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn open(ordinal: u32, max_allocation: Option<usize>) -> Result<Self, DriverError> {
        let failed = |call| DriverError::of(call, Some(ordinal));
        cust::init(CudaFlags::empty()).map_err(failed("cuInit"))?;
        let device = cust::device::Device::get_device(ordinal).map_err(failed("cuDeviceGet"))?;
        let context = Context::new(device).map_err(failed("cuDevicePrimaryCtxRetain"))?;
        let module = Module::from_fatbin(kernels()?, &[]).map_err(failed("cuModuleLoadDataEx"))?;
        let stream = Stream::new(StreamFlags::DEFAULT, None).map_err(failed("cuStreamCreate"))?;
        let bytes = match max_allocation {
            Some(bytes) => bytes,
            None => {
                let (free, _) = mem_get_info().map_err(failed("cuMemGetInfo"))?;
                free.saturating_sub(LEFT_TO_THE_DRIVER)
            }
        };
        // SAFETY: whatever is taken of it is written before it is read.
        let memory =
            unsafe { DeviceBuffer::uninitialized(bytes / ELEMENT_BYTES) }.map_err(failed("cuMemAlloc"))?;
        let ranges = RefCell::new(Ranges::new(memory.len()));
        let transferred = Cell::default();
        Ok(Self(Rc::new(Inner { ordinal, stream, module, memory, ranges, transferred, _context: context })))
    }

    /// Its number.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.0.ordinal
    }

    /// What its arena has.
    #[must_use]
    pub fn arena(&self) -> ArenaUse {
        let ranges = self.0.ranges.borrow();
        ArenaUse {
            size: ranges.length() * ELEMENT_BYTES,
            used: ranges.used() * ELEMENT_BYTES,
            most_used: ranges.most_used() * ELEMENT_BYTES,
        }
    }

    /// Bytes that were copied to it, and from it, since this was last asked.
    pub(crate) fn take_transferred(&self) -> [u64; 2] {
        self.0.transferred.take()
    }

    fn add_transferred(&self, to_device: usize, from_device: usize) {
        let [to, from] = self.0.transferred.get();
        let bytes = |elements: usize| (elements * ELEMENT_BYTES) as u64;
        self.0.transferred.set([to + bytes(to_device), from + bytes(from_device)]);
    }

    /// Waits for all that was asked of it.
    ///
    /// # Errors
    /// [`DriverError::Failed`]: also what a kernel did wrong shows here.
    pub(crate) fn finish(&self) -> Result<(), DriverError> {
        self.0.stream.synchronize().map_err(self.failed("cuStreamSynchronize"))
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.0.stream
    }

    pub(crate) fn kernel(&self, name: &'static str) -> Result<Function<'_>, DriverError> {
        self.0.module.get_function(name).map_err(self.failed("cuModuleGetFunction"))
    }

    pub(crate) fn failed(&self, call: &'static str) -> impl FnOnce(CudaError) -> DriverError + use<> {
        DriverError::of(call, Some(self.0.ordinal))
    }

    pub(crate) fn allocate(&self, elements: usize) -> Result<Buffer, DriverError> {
        let taken = self.0.ranges.borrow_mut().take(elements);
        let begin = taken.map_err(|Full { longest }| DriverError::ArenaFull {
            device: self.0.ordinal,
            asked: elements * ELEMENT_BYTES,
            free: longest * ELEMENT_BYTES,
            size: self.arena().size,
        })?;
        Ok(Buffer { device: self.clone(), begin, length: elements })
    }

    pub(crate) fn upload(&self, elements: &[u64]) -> Result<Buffer, DriverError> {
        let buffer = self.allocate(elements.len())?;
        buffer.write(0, elements)?;
        Ok(buffer)
    }

    /// Columns one after the other, canonical.
    pub(crate) fn upload_columns(&self, columns: &[Vec<F>]) -> Result<Buffer, DriverError> {
        let elements: Vec<u64> = columns.iter().flatten().map(PrimeField64::to_canonical_u64).collect();
        self.upload(&elements)
    }
}

/// A range of a device's arena, in elements.
#[derive(Debug)]
pub(crate) struct Buffer {
    device: Device,
    begin: usize,
    length: usize,
}

impl Buffer {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Where its element of this number is.
    pub(crate) fn at(&self, element: usize) -> DevicePointer<u64> {
        assert!(element <= self.length, "element {element} of {}", self.length);
        self.device.0.memory.as_device_ptr().wrapping_add(self.begin + element)
    }

    pub(crate) fn pointer(&self) -> DevicePointer<u64> {
        self.at(0)
    }

    fn slice(&self, first: usize, count: usize) -> DeviceSlice<u64> {
        assert!(first + count <= self.length, "{count} elements from {first} on, of {}", self.length);
        // SAFETY: the range is the arena's, and this buffer's alone.
        unsafe { DeviceSlice::from_raw_parts_mut(self.at(first), count) }
    }

    pub(crate) fn write(&self, first: usize, elements: &[u64]) -> Result<(), DriverError> {
        self.device.add_transferred(elements.len(), 0);
        self.slice(first, elements.len()).copy_from(elements).map_err(self.device.failed("cuMemcpyHtoD"))
    }

    pub(crate) fn read(&self) -> Result<Vec<u64>, DriverError> {
        self.read_from(0, self.length)
    }

    pub(crate) fn read_from(&self, first: usize, count: usize) -> Result<Vec<u64>, DriverError> {
        self.device.finish()?;
        self.device.add_transferred(0, count);
        let mut elements = vec![0; count];
        self.slice(first, count).copy_to(&mut elements).map_err(self.device.failed("cuMemcpyDtoH"))?;
        Ok(elements)
    }

    /// Another with the same elements.
    pub(crate) fn copy(&self) -> Result<Self, DriverError> {
        let copy = self.device.allocate(self.length)?;
        copy.slice(0, self.length)
            .copy_from(&self.slice(0, self.length))
            .map_err(self.device.failed("cuMemcpyDtoD"))?;
        Ok(copy)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.device.0.ranges.borrow_mut().give_back(self.begin, self.length);
    }
}

/// A grid of at least so many threads, and its blocks.
pub(crate) fn threads(count: u64) -> (GridSize, BlockSize) {
    let blocks = count.div_ceil(u64::from(BLOCK)).max(1);
    (GridSize::x(u32::try_from(blocks).unwrap_or(u32::MAX)), BlockSize::x(BLOCK))
}

/// Starts a kernel on a device: `launch!(device, "kernel", grid, block, arguments…)`. What the arguments point to is as the kernel's comment
/// says, at each use.
macro_rules! launch {
    ($device:expr, $name:literal, $grid:expr, $block:expr, $($argument:expr),+ $(,)?) => {{
        let device: &$crate::device::Device = $device;
        let (kernel, stream) = (device.kernel($name)?, device.stream());
        let (grid, block) = ($grid, $block);
        // SAFETY: the arguments are of the kernel's types, and point to ranges of the sizes that its comment names.
        unsafe { cust::launch!(kernel<<<grid, block, 0, stream>>>($($argument),+)) }
            .map_err(device.failed($name))
    }};
}
pub(crate) use launch;
