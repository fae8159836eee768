//! A device and what it computes.

// A launch passes arguments as the kernel declares them, and the kernel keeps to what they say.
#![allow(unsafe_code)]

use crate::driver::DriverError;
use cust::context::Context;
use cust::error::CudaError;
use cust::function::{BlockSize, Function, GridSize};
use cust::memory::{CopyDestination, DeviceBuffer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use cust::{CudaFlags, launch};
use plonky2::field::goldilocks_field::GoldilocksField as F;
use plonky2::field::types::{Field, PrimeField64};
use plonky2::util::reverse_index_bits_in_place;

/// Bits of the index that a pass of a transform works on, at most, and neighbours that it takes together: 2^12 elements, the kernel's
/// `PASS_ELEMENTS`.
const BITS_OF_A_PASS: u32 = 9;
const TILE_BITS: u32 = 3;
const THREADS_OF_A_PASS: u32 = 256;

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

    /// What transforms of this size need, on the device.
    ///
    /// # Errors
    /// [`DriverError::Failed`], out of memory among them.
    pub fn domain(&self, log_rows: u32, rate_bits: u32) -> Result<Domain, DriverError> {
        let rows = 1 << log_rows;
        let root = F::primitive_root_of_unity(log_rows as usize);
        let first = F::primitive_root_of_unity((log_rows + rate_bits) as usize);
        let powers_of =
            |base: F, count: usize| base.powers().take(count).map(|power| power.to_canonical_u64());
        let mut powers = Vec::with_capacity(rows << rate_bits);
        for shift in first.powers().take(1 << rate_bits).map(|power| power * F::coset_shift()) {
            let mut of_coset: Vec<u64> = powers_of(shift, rows).collect();
            reverse_index_bits_in_place(&mut of_coset);
            powers.extend(of_coset);
        }
        let table = |base| self.upload(&powers_of(base, (rows / 2).max(1)).collect::<Vec<_>>());
        Ok(Domain {
            log_rows,
            rate_bits,
            roots: table(root)?,
            inverse_roots: table(root.inverse())?,
            powers: self.upload(&powers)?,
            scale: F::from_canonical_usize(rows).inverse().to_canonical_u64(),
        })
    }

    /// Commits to the polynomials that take these values on the subgroup: the values of each, one polynomial after the other, in the
    /// subgroup's natural order. Interpolates, extends, and makes the Merkle tree; all of it stays on the device, but the tree.
    ///
    /// # Errors
    /// [`DriverError::Failed`], out of memory among them.
    ///
    /// # Panics
    /// When the columns are not whole.
    pub fn commit(
        &self,
        domain: &Domain,
        values: &[u64],
        cap_height: u32,
    ) -> Result<Commitment, DriverError> {
        let Domain { log_rows, rate_bits, .. } = *domain;
        let rows = 1usize << log_rows;
        assert!(values.len().is_multiple_of(rows), "{} elements are no columns of {rows}", values.len());
        let width = u32::try_from(values.len() / rows).unwrap_or(u32::MAX);
        let coefficients = self.upload(values)?;
        self.transform(&coefficients, width, log_rows, Direction::ToCoefficients, domain)?;
        let extension = self.allocate(values.len() << rate_bits)?;
        self.spread(&coefficients, &extension, width, domain)?;
        self.transform(&extension, width << rate_bits, log_rows, Direction::ToValues, domain)?;
        let levels = self.merkle_tree(&extension, width, log_rows + rate_bits, rate_bits, cap_height)?;
        Ok(Commitment { coefficients, extension, width, log_rows, rate_bits, levels })
    }

    /// The Merkle tree over the rows of a matrix, level by level from the leaves' digests to the cap.
    fn merkle_tree(
        &self,
        columns: &DeviceBuffer<u64>,
        width: u32,
        log_rows: u32,
        rate_bits: u32,
        cap_height: u32,
    ) -> Result<Vec<Vec<Digest>>, DriverError> {
        let digests = |nodes: usize| self.allocate(nodes * DIGEST);
        let mut level = digests(1 << log_rows)?;
        let (stream, (grid, block)) = (&self.stream, threads(1 << log_rows));
        let kernel = self.kernel("hash_leaves")?;
        // SAFETY: the kernel reads `width` columns of 2^log_rows elements and writes a digest for each row.
        unsafe {
            launch!(kernel<<<grid, block, 0, stream>>>(
                columns.as_device_ptr(), width, log_rows, rate_bits, level.as_device_ptr()
            ))
        }
        .map_err(self.failed("hash_leaves"))?;
        let kernel = self.kernel("hash_nodes")?;
        let mut levels = Vec::new();
        loop {
            stream.synchronize().map_err(self.failed("cuStreamSynchronize"))?;
            levels.push(self.read_digests(&level)?);
            let nodes = level.len() / DIGEST;
            if nodes <= 1 << cap_height {
                return Ok(levels);
            }
            let parents = digests(nodes / 2)?;
            let (count, (grid, block)) = (nodes as u64 / 2, threads(nodes as u64 / 2));
            // SAFETY: the kernel reads two digests for each of `count` that it writes.
            unsafe {
                launch!(kernel<<<grid, block, 0, stream>>>(
                    level.as_device_ptr(), parents.as_device_ptr(), count
                ))
            }
            .map_err(self.failed("hash_nodes"))?;
            level = parents;
        }
    }

    /// Transforms polynomials of 2^log_n elements each in place, in as many passes as it takes.
    fn transform(
        &self,
        data: &DeviceBuffer<u64>,
        polynomials: u32,
        log_n: u32,
        direction: Direction,
        domain: &Domain,
    ) -> Result<(), DriverError> {
        let kernel = self.kernel("transform_pass")?;
        let (is_inverse, roots) = match direction {
            Direction::ToCoefficients => (1u32, &domain.inverse_roots),
            Direction::ToValues => (0u32, &domain.roots),
        };
        let mut passes = passes(log_n);
        if direction == Direction::ToCoefficients {
            passes.reverse();
        }
        let stream = &self.stream;
        for Pass { low_bit, bits, tile_bits } in passes {
            let elements = bits + tile_bits;
            let grid = GridSize::xy(1 << (log_n - elements), polynomials);
            let block = BlockSize::x((1 << elements >> 1).clamp(1, THREADS_OF_A_PASS));
            // SAFETY: the kernel reads and writes `polynomials` times 2^log_n elements, and reads half as many roots.
            unsafe {
                launch!(kernel<<<grid, block, 0, stream>>>(
                    data.as_device_ptr(), log_n, low_bit, bits, tile_bits, roots.as_device_ptr(), is_inverse,
                    domain.scale
                ))
            }
            .map_err(self.failed("transform_pass"))?;
        }
        Ok(())
    }

    fn spread(
        &self,
        coefficients: &DeviceBuffer<u64>,
        spread: &DeviceBuffer<u64>,
        polynomials: u32,
        domain: &Domain,
    ) -> Result<(), DriverError> {
        let Domain { log_rows, rate_bits, .. } = *domain;
        let kernel = self.kernel("spread_over_cosets")?;
        let (stream, (GridSize { x, .. }, block)) = (&self.stream, threads(1 << (log_rows + rate_bits)));
        let grid = GridSize::xy(x, polynomials);
        // SAFETY: the kernel reads 2^log_rows elements of each polynomial and as many powers as it writes elements of one.
        unsafe {
            launch!(kernel<<<grid, block, 0, stream>>>(
                coefficients.as_device_ptr(), spread.as_device_ptr(), log_rows, rate_bits,
                domain.powers.as_device_ptr()
            ))
        }
        .map_err(self.failed("spread_over_cosets"))
    }

    fn kernel(&self, name: &'static str) -> Result<Function<'_>, DriverError> {
        self.module.get_function(name).map_err(self.failed("cuModuleGetFunction"))
    }

    fn failed(&self, call: &'static str) -> impl FnOnce(CudaError) -> DriverError {
        DriverError::of(call, Some(self.ordinal))
    }

    fn upload(&self, elements: &[u64]) -> Result<DeviceBuffer<u64>, DriverError> {
        let mut buffer = self.allocate(elements.len())?;
        buffer.copy_from(elements).map_err(self.failed("cuMemcpyHtoD"))?;
        Ok(buffer)
    }

    fn download(&self, buffer: &DeviceBuffer<u64>) -> Result<Vec<u64>, DriverError> {
        let mut elements = vec![0; buffer.len()];
        buffer.copy_to(&mut elements).map_err(self.failed("cuMemcpyDtoH"))?;
        Ok(elements)
    }

    /// A commitment's coefficients, one polynomial after the other, each from the constant term on.
    ///
    /// # Errors
    /// [`DriverError::Failed`].
    pub fn coefficients(&self, commitment: &Commitment) -> Result<Vec<u64>, DriverError> {
        let mut coefficients = self.download(&commitment.coefficients)?;
        coefficients.chunks_exact_mut(1 << commitment.log_rows).for_each(reverse_index_bits_in_place);
        // Of one row alone they are the values as they came.
        Ok(coefficients.into_iter().map(|c| F::from_noncanonical_u64(c).to_canonical_u64()).collect())
    }

    /// A commitment's values on the coset, one polynomial after the other, each in the coset's natural order.
    ///
    /// # Errors
    /// [`DriverError::Failed`].
    pub fn extension(&self, commitment: &Commitment) -> Result<Vec<u64>, DriverError> {
        let by_coset = self.download(&commitment.extension)?;
        let (rows, cosets) = (1usize << commitment.log_rows, 1usize << commitment.rate_bits);
        let of_one = |values: &[u64]| -> Vec<u64> {
            (0..rows * cosets).map(|row| values[row % cosets * rows + row / cosets]).collect()
        };
        Ok(by_coset.chunks_exact(rows * cosets).flat_map(of_one).collect())
    }

    fn allocate(&self, elements: usize) -> Result<DeviceBuffer<u64>, DriverError> {
        // SAFETY: whatever is allocated here is written before it is read.
        unsafe { DeviceBuffer::uninitialized(elements) }
            .map_err(DriverError::of("cuMemAlloc", Some(self.ordinal)))
    }

    fn read_digests(&self, digests: &DeviceBuffer<u64>) -> Result<Vec<Digest>, DriverError> {
        let elements = self.download(digests)?;
        Ok(elements.chunks_exact(DIGEST).map(|digest| std::array::from_fn(|i| digest[i])).collect())
    }
}

/// Which way a transform goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// From values in natural order to coefficients in bit-reversed order.
    ToCoefficients,
    /// Back.
    ToValues,
}

/// A pass of a transform: the bits of the index that it works on, and how many neighbours a block takes of each.
#[derive(Debug, Clone, Copy)]
struct Pass {
    low_bit: u32,
    bits: u32,
    tile_bits: u32,
}

/// The passes of a transform of 2^log_n elements, from the lowest bit on, of about the same size.
fn passes(log_n: u32) -> Vec<Pass> {
    let count = log_n.div_ceil(BITS_OF_A_PASS);
    let mut low_bit = 0;
    (0..count)
        .map(|pass| {
            let bits = (log_n - low_bit).div_ceil(count - pass);
            let tile_bits = low_bit.min(TILE_BITS);
            let this = Pass { low_bit, bits, tile_bits };
            low_bit += bits;
            this
        })
        .collect()
}

/// Tables for transforms of one size, on the device.
#[derive(Debug)]
pub struct Domain {
    log_rows: u32,
    rate_bits: u32,
    roots: DeviceBuffer<u64>,
    inverse_roots: DeviceBuffer<u64>,
    /// Of each coset's shift, in the order of coefficients.
    powers: DeviceBuffer<u64>,
    scale: u64,
}

/// Polynomials that are committed to.
#[derive(Debug)]
pub struct Commitment {
    /// In bit-reversed order.
    coefficients: DeviceBuffer<u64>,
    /// By coset: of the rows `t · 2^rate_bits + j` those with the same `j` are neighbours.
    extension: DeviceBuffer<u64>,
    width: u32,
    log_rows: u32,
    rate_bits: u32,
    levels: Vec<Vec<Digest>>,
}

impl Commitment {
    /// The Merkle tree, level by level from the leaves' digests to the cap: leaf `i` is the row of the coset whose number is that of `i`
    /// with its bits reversed.
    #[must_use]
    pub fn levels(&self) -> &[Vec<Digest>] {
        &self.levels
    }

    /// How many polynomials.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }
}

/// A grid of at least so many threads.
fn threads(count: u64) -> (GridSize, BlockSize) {
    let blocks = count.div_ceil(u64::from(BLOCK)).max(1);
    (GridSize::x(u32::try_from(blocks).unwrap_or(u32::MAX)), BlockSize::x(BLOCK))
}
