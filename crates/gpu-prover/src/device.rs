//! A device in use: its context, its kernels, its memory.
//!
//! All that is computed and copied is in the order of one stream, but for what the next proof needs (`upload`).

// Memory is copied as CUDA's functions have it, and ranges of the arena are slices of it.
#![allow(unsafe_code)]

use crate::arena::{Full, Ranges};
use crate::driver::{self, DriverError, PageLock};
use cust::CudaFlags;
use cust::context::{Context, ContextFlags};
use cust::device::DeviceAttribute;
use cust::error::CudaError;
use cust::event::{Event, EventFlags};
use cust::function::{BlockSize, Function, GridSize};
use cust::memory::{AsyncCopyDestination, DeviceBuffer, DevicePointer, DeviceSlice, mem_get_info};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags, StreamWaitEventFlags};
use plonk_prover::roofline::Rates;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

/// Threads of a block. A hash keeps its state in registers, of which more threads would leave too few.
const BLOCK: u32 = 128;
/// What is left to the driver of a device whose arena has no bound: for kernels' stacks, and for what else uses the device.
const LEFT_TO_THE_DRIVER: usize = 512 << 20;
const ELEMENT_BYTES: usize = size_of::<u64>();
/// Products of 32 bits of a Poseidon permutation (`poseidon.cuh`): 8 matrices of 288; of 64 bits, which are four, 118 S-boxes of four,
/// a matrix of 121, and 22 partial rounds of 23.
const PRODUCTS_OF_A_PERMUTATION: f64 = 8.0 * 288.0 + 4.0 * (118.0 * 4.0 + 121.0 + 22.0 * 23.0);
/// Products of 32 bits that a multiprocessor makes in a clock, on compute capability 7.0 and later: CUDA's programming guide, arithmetic
/// instructions.
const PRODUCTS_OF_A_CLOCK: f64 = 64.0;
/// What is uploaded to measure the way to a device.
const PROBE_BYTES: usize = 64 << 20;
const PROBES: usize = 5;

/// A device in use, by one thread. What is computed is in order; reading waits for it.
#[derive(Debug, Clone)]
pub struct Device(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    ordinal: u32,
    // Dropped in this order: the context last.
    pub(crate) stream: Stream,
    /// For what is copied while the other works.
    beside: Stream,
    /// Host memory that is page-locked for this device, by where it begins.
    locked: RefCell<HashMap<usize, PageLock>>,
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
        // Who waits for a device sleeps: the core is a generator's meanwhile.
        context.set_flags(ContextFlags::SCHED_BLOCKING_SYNC).map_err(failed("cuDevicePrimaryCtxSetFlags"))?;
        let module = Module::from_fatbin(kernels()?, &[]).map_err(failed("cuModuleLoadDataEx"))?;
        let new_stream = || {
            Stream::new(StreamFlags::DEFAULT, None).map_err(DriverError::of("cuStreamCreate", Some(ordinal)))
        };
        let (stream, beside) = (new_stream()?, new_stream()?);
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
        Ok(Self(Rc::new(Inner {
            ordinal,
            stream,
            beside,
            locked: RefCell::default(),
            module,
            memory,
            ranges,
            transferred: Cell::default(),
            _context: context,
        })))
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

    /// What it does in a second: its memory and its multiprocessors at the clocks that the driver tells, which sets the least that its kernels
    /// can take, and the way to it as measured. `None` where the driver tells no clocks.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn rates(&self) -> Result<Option<Rates>, DriverError> {
        let device = cust::device::Device::get_device(self.0.ordinal).map_err(self.failed("cuDeviceGet"))?;
        let attribute = |attribute| {
            let value = device.get_attribute(attribute).map_err(self.failed("cuDeviceGetAttribute"))?;
            Ok::<_, DriverError>(f64::from(value))
        };
        // Clocks are in kHz, the bus in bits, and both edges of the memory's clock count.
        let memory_clock = attribute(DeviceAttribute::MemoryClockRate)?;
        let bytes = 2e3 * memory_clock * attribute(DeviceAttribute::GlobalMemoryBusWidth)? / 8.0;
        let clocks =
            1e3 * attribute(DeviceAttribute::ClockRate)? * attribute(DeviceAttribute::MultiprocessorCount)?;
        if bytes <= 0.0 || clocks <= 0.0 {
            return Ok(None);
        }
        let permutations = clocks * PRODUCTS_OF_A_CLOCK / PRODUCTS_OF_A_PERMUTATION;
        Ok(Some(Rates { bytes, uploaded_bytes: self.measure_uploads()?, permutations }))
    }

    fn measure_uploads(&self) -> Result<f64, DriverError> {
        let elements = vec![1; (PROBE_BYTES / ELEMENT_BYTES).min(self.0.ranges.borrow().length() / 2)];
        let buffer = self.allocate(elements.len())?;
        let _lock = PageLock::new(&elements);
        let mut fastest = f64::INFINITY;
        for _ in 0..PROBES {
            let begun = Instant::now();
            // SAFETY: they stay until it has happened.
            let copied = unsafe { buffer.write_beside(&elements) }?;
            copied.synchronize().map_err(self.failed("cuEventSynchronize"))?;
            fastest = fastest.min(begun.elapsed().as_secs_f64());
        }
        Ok(size_of_val(elements.as_slice()) as f64 / fastest)
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

    /// Page-locks host memory, so that the device reads it while others compute. Where that cannot be had the copy only takes longer.
    pub(crate) fn page_lock(&self, memory: &[u64]) {
        let mut locked = self.0.locked.borrow_mut();
        locked.entry(memory.as_ptr().addr()).or_insert_with(|| PageLock::new(memory));
    }

    /// To be called before page-locked memory is freed.
    pub(crate) fn page_unlock(&self, memory: &[u64]) {
        self.0.locked.borrow_mut().remove(&memory.as_ptr().addr());
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
        // SAFETY: of memory that is not page-locked the driver has a copy when it returns.
        unsafe { self.slice(first, elements.len()).async_copy_from(elements, self.device.stream()) }
            .map_err(self.device.failed("cuMemcpyHtoDAsync"))
    }

    /// Copies all of it beside what the device computes. The event is when that has happened.
    ///
    /// # Safety
    /// The elements stay until then, as they are.
    pub(crate) unsafe fn write_beside(&self, elements: &[u64]) -> Result<Event, DriverError> {
        let device = &self.device;
        let beside = &device.0.beside;
        let flags = EventFlags::DISABLE_TIMING | EventFlags::BLOCKING_SYNC;
        let event = || Event::new(flags).map_err(device.failed("cuEventCreate"));
        // The range may have been another's, whose last kernel is still to run.
        let free = event()?;
        free.record(device.stream()).map_err(device.failed("cuEventRecord"))?;
        beside.wait_event(free, StreamWaitEventFlags::DEFAULT).map_err(device.failed("cuStreamWaitEvent"))?;
        let copied = event()?;
        device.add_transferred(elements.len(), 0);
        // SAFETY: the caller's.
        unsafe { self.slice(0, elements.len()).async_copy_from(elements, beside) }
            .map_err(device.failed("cuMemcpyHtoDAsync"))?;
        if let Err(error) = copied.record(beside) {
            // Nobody could tell when it has happened: not later than this.
            let _ = beside.synchronize();
            return Err(device.failed("cuEventRecord")(error));
        }
        Ok(copied)
    }

    pub(crate) fn read(&self) -> Result<Vec<u64>, DriverError> {
        self.read_from(0, self.length)
    }

    pub(crate) fn read_from(&self, first: usize, count: usize) -> Result<Vec<u64>, DriverError> {
        self.device.add_transferred(0, count);
        let mut elements = vec![0; count];
        // SAFETY: to memory that is not page-locked it has copied when it returns.
        unsafe { self.slice(first, count).async_copy_to(elements.as_mut_slice(), self.device.stream()) }
            .map_err(self.device.failed("cuMemcpyDtoHAsync"))?;
        self.device.finish()?;
        Ok(elements)
    }

    /// Another with the same elements.
    pub(crate) fn copy(&self) -> Result<Self, DriverError> {
        let copy = self.device.allocate(self.length)?;
        // SAFETY: what follows on the stream comes after it, and what frees either range is only used by what follows.
        unsafe {
            copy.slice(0, self.length).async_copy_from(&self.slice(0, self.length), self.device.stream())
        }
        .map_err(self.device.failed("cuMemcpyDtoDAsync"))?;
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
