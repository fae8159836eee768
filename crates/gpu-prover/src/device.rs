//! A device and what it computes.

// A launch passes arguments as the kernel declares them, and the kernel keeps to what they say.
#![allow(unsafe_code)]

use crate::driver::DriverError;
use cust::context::Context;
use cust::error::CudaResult;
use cust::function::{BlockSize, GridSize};
use cust::memory::{CopyDestination, DeviceBuffer, DevicePointer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use cust::{CudaFlags, launch};

/// Threads of a block. A hash keeps its state in registers, of which more threads would leave too few.
const BLOCK: u32 = 128;

/// Elements of a digest.
pub const DIGEST: usize = 4;

/// The digest of a Merkle tree's node: canonical elements.
pub type Digest = [u64; DIGEST];

/// A device in use. What is computed is waited for.
#[derive(Debug)]
pub struct Device {
    ordinal: u32,
    // Dropped in this order: the context last.
    stream: Stream,
    module: Module,
    _context: Context,
}

/// The kernels that this program was built with.
fn kernels() -> Option<&'static [u8]> {
    #[cfg(has_kernels)]
    return Some(include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));
    #[cfg(not(has_kernels))]
    None
}

impl Device {
    /// Opens a device with this program's kernels.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn open(ordinal: u32) -> Result<Self, DriverError> {
        Self::open_with(ordinal, kernels().ok_or(DriverError::NoKernels)?)
    }

    /// Opens a device with kernels from elsewhere: those that the emulated driver has, whatever is given here.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn open_with(ordinal: u32, kernels: &[u8]) -> Result<Self, DriverError> {
        let failed = |call| DriverError::of(call, Some(ordinal));
        cust::init(CudaFlags::empty()).map_err(failed("cuInit"))?;
        let device = cust::device::Device::get_device(ordinal).map_err(failed("cuDeviceGet"))?;
        let context = Context::new(device).map_err(failed("cuDevicePrimaryCtxRetain"))?;
        let module = Module::from_fatbin(kernels, &[]).map_err(failed("cuModuleLoadDataEx"))?;
        let stream = Stream::new(StreamFlags::DEFAULT, None).map_err(failed("cuStreamCreate"))?;
        Ok(Self { ordinal, stream, module, _context: context })
    }

    /// The Merkle tree over the rows of a matrix, level by level from the leaves' digests to the cap: leaf `i` is the row whose number is that
    /// of `i` with its bits reversed. The matrix is given by columns of 2^log_rows elements, one after the other.
    ///
    /// # Errors
    /// [`DriverError::Failed`], out of memory among them.
    ///
    /// # Panics
    /// When the columns are not whole.
    pub fn merkle_tree(
        &self,
        columns: &[u64],
        log_rows: u32,
        cap_height: u32,
    ) -> Result<Vec<Vec<Digest>>, DriverError> {
        let rows = 1usize << log_rows;
        assert!(columns.len().is_multiple_of(rows), "{} elements are no columns of {rows}", columns.len());
        let width = u32::try_from(columns.len() / rows).unwrap_or(u32::MAX);
        let failed = |call| DriverError::of(call, Some(self.ordinal));
        let digests = |nodes: usize| self.allocate(nodes * DIGEST);
        let matrix = self.allocate(columns.len().max(1))?;
        if !columns.is_empty() {
            let mut whole = matrix.index(..columns.len());
            whole.copy_from(columns).map_err(failed("cuMemcpyHtoD"))?;
        }
        let mut level = digests(rows)?;
        self.hash_leaves(matrix.as_device_ptr(), rows as u64, width, log_rows, level.as_device_ptr())
            .map_err(failed("hash_leaves"))?;
        let mut levels = Vec::new();
        loop {
            self.stream.synchronize().map_err(failed("cuStreamSynchronize"))?;
            levels.push(self.read_digests(&level)?);
            let nodes = level.len() / DIGEST;
            if nodes <= 1 << cap_height {
                return Ok(levels);
            }
            let parents = digests(nodes / 2)?;
            self.hash_nodes(level.as_device_ptr(), parents.as_device_ptr(), nodes as u64 / 2)
                .map_err(failed("hash_nodes"))?;
            level = parents;
        }
    }

    fn allocate(&self, elements: usize) -> Result<DeviceBuffer<u64>, DriverError> {
        // SAFETY: whatever is allocated here is written before it is read.
        unsafe { DeviceBuffer::uninitialized(elements) }
            .map_err(DriverError::of("cuMemAlloc", Some(self.ordinal)))
    }

    fn read_digests(&self, digests: &DeviceBuffer<u64>) -> Result<Vec<Digest>, DriverError> {
        let mut elements = vec![0; digests.len()];
        digests.copy_to(&mut elements).map_err(DriverError::of("cuMemcpyDtoH", Some(self.ordinal)))?;
        Ok(elements.chunks_exact(DIGEST).map(|digest| std::array::from_fn(|i| digest[i])).collect())
    }

    fn hash_leaves(
        &self,
        columns: DevicePointer<u64>,
        stride: u64,
        width: u32,
        log_rows: u32,
        digests: DevicePointer<u64>,
    ) -> CudaResult<()> {
        let kernel = self.module.get_function("hash_leaves")?;
        let (stream, (grid, block)) = (&self.stream, threads(1 << log_rows));
        // SAFETY: the kernel reads `width` columns of 2^log_rows elements and writes a digest for each row; the caller has both.
        unsafe { launch!(kernel<<<grid, block, 0, stream>>>(columns, stride, width, log_rows, digests)) }
    }

    fn hash_nodes(
        &self,
        children: DevicePointer<u64>,
        parents: DevicePointer<u64>,
        count: u64,
    ) -> CudaResult<()> {
        let kernel = self.module.get_function("hash_nodes")?;
        let (stream, (grid, block)) = (&self.stream, threads(count));
        // SAFETY: the kernel reads two digests for each of `count` that it writes; the caller has both.
        unsafe { launch!(kernel<<<grid, block, 0, stream>>>(children, parents, count)) }
    }
}

/// A grid of at least so many threads.
fn threads(count: u64) -> (GridSize, BlockSize) {
    let blocks = count.div_ceil(u64::from(BLOCK)).max(1);
    (GridSize::x(u32::try_from(blocks).unwrap_or(u32::MAX)), BlockSize::x(BLOCK))
}
