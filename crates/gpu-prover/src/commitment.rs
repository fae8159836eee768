//! Polynomials that are committed to, on a device: interpolation, low-degree extension, Merkle trees.

// Kernels are started with what their comments say.
#![allow(unsafe_code)]

use crate::F;
use crate::device::{Buffer, Device, launch, threads};
use crate::driver::DriverError;
use cust::function::{BlockSize, GridSize};
use plonky2::field::types::{Field, PrimeField64};
use plonky2::util::{reverse_bits, reverse_index_bits_in_place};

/// Bits of the index that a pass of a transform works on, at most, and neighbours that it takes together: 2^12 elements, the kernel's
/// `PASS_ELEMENTS`.
const BITS_OF_A_PASS: u32 = 9;
const TILE_BITS: u32 = 3;
const THREADS_OF_A_PASS: u32 = 256;

/// Elements of a digest.
pub const DIGEST: usize = 4;

/// The digest of a Merkle tree's node: canonical elements.
pub type Digest = [u64; DIGEST];

/// Tables for transforms of one size, on the device.
#[derive(Debug)]
pub struct Domain {
    pub(crate) log_rows: u32,
    pub(crate) rate_bits: u32,
    /// Powers of the rows' root of unity, the first half.
    pub(crate) roots: Buffer,
    inverse_roots: Buffer,
    /// Of each coset's shift, in the order of coefficients.
    powers: Buffer,
    /// Each coset's shift.
    pub(crate) shifts: Buffer,
    scale: u64,
}

/// Which way a transform goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From values in natural order to coefficients in bit-reversed order.
    ToCoefficients,
    /// Back.
    ToValues,
}

pub(crate) fn powers_of(base: F, count: usize) -> impl Iterator<Item = u64> {
    base.powers().take(count).map(|power| power.to_canonical_u64())
}

/// The powers of each of these shifts, in the order of coefficients.
pub(crate) fn powers_by_coset(shifts: impl Iterator<Item = F>, rows: usize) -> Vec<u64> {
    let mut powers = Vec::new();
    for shift in shifts {
        let mut of_coset: Vec<u64> = powers_of(shift, rows).collect();
        reverse_index_bits_in_place(&mut of_coset);
        powers.extend(of_coset);
    }
    powers
}

impl Domain {
    /// What transforms of 2^log_rows rows, and extensions to 2^rate_bits cosets, need.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn new(device: &Device, log_rows: u32, rate_bits: u32) -> Result<Self, DriverError> {
        let rows = 1 << log_rows;
        let root = F::primitive_root_of_unity(log_rows as usize);
        let first = F::primitive_root_of_unity((log_rows + rate_bits) as usize);
        let shifts: Vec<F> =
            first.powers().take(1 << rate_bits).map(|power| power * F::coset_shift()).collect();
        let table = |base| device.upload(&powers_of(base, (rows / 2).max(1)).collect::<Vec<_>>());
        Ok(Self {
            log_rows,
            rate_bits,
            roots: table(root)?,
            inverse_roots: table(root.inverse())?,
            powers: device.upload(&powers_by_coset(shifts.iter().copied(), rows))?,
            shifts: device.upload(&shifts.iter().map(F::to_canonical_u64).collect::<Vec<_>>())?,
            scale: F::from_canonical_usize(rows).inverse().to_canonical_u64(),
        })
    }

    /// How many rows, as a power of two, the extension has.
    pub(crate) fn log_all(&self) -> u32 {
        self.log_rows + self.rate_bits
    }

    /// Transforms so many polynomials of 2^log_rows elements each in place, in as many passes as it takes.
    pub(crate) fn transform(
        &self,
        data: &Buffer,
        polynomials: u32,
        direction: Direction,
    ) -> Result<(), DriverError> {
        let (is_inverse, roots) = match direction {
            Direction::ToCoefficients => (1u32, &self.inverse_roots),
            Direction::ToValues => (0u32, &self.roots),
        };
        assert!(
            data.len() >= (polynomials as usize) << self.log_rows,
            "fewer than {polynomials} polynomials"
        );
        let log_n = self.log_rows;
        let mut passes = passes(log_n);
        if direction == Direction::ToCoefficients {
            passes.reverse();
        }
        for Pass { low_bit, bits, tile_bits } in passes {
            let elements = bits + tile_bits;
            let grid = GridSize::xy(1 << (log_n - elements), polynomials);
            let block = BlockSize::x((1 << elements >> 1).clamp(1, THREADS_OF_A_PASS));
            launch!(
                data.device(),
                "transform_pass",
                grid,
                block,
                data.pointer(),
                log_n,
                low_bit,
                bits,
                tile_bits,
                roots.pointer(),
                is_inverse,
                self.scale
            )?;
        }
        Ok(())
    }

    /// The values of polynomials, of whose coefficients these are, on all cosets, by coset.
    pub(crate) fn extend(&self, coefficients: &Buffer, polynomials: u32) -> Result<Buffer, DriverError> {
        let device = coefficients.device();
        let (log_rows, rate_bits) = (self.log_rows, self.rate_bits);
        assert!(
            coefficients.len() >= (polynomials as usize) << log_rows,
            "fewer than {polynomials} polynomials"
        );
        let extension = device.allocate((polynomials as usize) << self.log_all())?;
        let (GridSize { x, .. }, block) = threads(1 << self.log_all());
        launch!(
            device,
            "spread_over_cosets",
            GridSize::xy(x, polynomials),
            block,
            coefficients.pointer(),
            extension.pointer(),
            log_rows,
            rate_bits,
            self.powers.pointer()
        )?;
        self.transform(&extension, polynomials << rate_bits, Direction::ToValues)?;
        Ok(extension)
    }
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

/// A Merkle tree's digests: the leaves', and then level by level up to the cap.
#[derive(Debug)]
pub(crate) struct Tree {
    digests: Buffer,
    log_leaves: u32,
    /// Levels above the leaves.
    height: u32,
}

impl Tree {
    /// A tree whose leaves' digests `hash` has written to the beginning of the buffer that it is given.
    pub(crate) fn above(
        device: &Device,
        log_leaves: u32,
        cap_height: u32,
        hash: impl FnOnce(&Buffer) -> Result<(), DriverError>,
    ) -> Result<Self, DriverError> {
        let height = log_leaves.saturating_sub(cap_height);
        let digests = device.allocate(first_of_level(log_leaves, height + 1) * DIGEST)?;
        hash(&digests)?;
        for level in 0..height {
            let children = digests.at(first_of_level(log_leaves, level) * DIGEST);
            let parents = digests.at(first_of_level(log_leaves, level + 1) * DIGEST);
            let count = 1u64 << (log_leaves - level - 1);
            let (grid, block) = threads(count);
            launch!(device, "hash_nodes", grid, block, children, parents, count)?;
        }
        Ok(Self { digests, log_leaves, height })
    }

    /// The digests of a level, the leaves' being 0.
    pub(crate) fn level(&self, level: u32) -> Result<Vec<Digest>, DriverError> {
        let (first, count) = (first_of_level(self.log_leaves, level), 1 << (self.log_leaves - level));
        let elements = self.digests.read_from(first * DIGEST, count * DIGEST)?;
        Ok(elements.chunks_exact(DIGEST).map(|digest| std::array::from_fn(|i| digest[i])).collect())
    }

    /// The cap.
    pub(crate) fn cap(&self) -> Result<Vec<Digest>, DriverError> {
        self.level(self.height)
    }

    /// For each of these leaves the siblings on its way to the cap.
    pub(crate) fn siblings(&self, leaves: &[usize]) -> Result<Vec<Vec<Digest>>, DriverError> {
        let places = leaves.iter().flat_map(|leaf| {
            (0..self.height).flat_map(move |level| {
                let node = first_of_level(self.log_leaves, level) + ((leaf >> level) ^ 1);
                (0..DIGEST).map(move |i| node * DIGEST + i)
            })
        });
        let elements = gather(&self.digests, places)?;
        let digests: Vec<Digest> =
            elements.chunks_exact(DIGEST).map(|digest| std::array::from_fn(|i| digest[i])).collect();
        let height = self.height as usize;
        Ok((0..leaves.len()).map(|i| digests[i * height..(i + 1) * height].to_vec()).collect())
    }
}

/// How many digests there are below a level.
fn first_of_level(log_leaves: u32, level: u32) -> usize {
    (2 << log_leaves) - (2 << log_leaves >> level)
}

/// Elements by their places.
pub(crate) fn gather(
    elements: &Buffer,
    places: impl Iterator<Item = usize>,
) -> Result<Vec<u64>, DriverError> {
    let places: Vec<u64> = places.map(|place| place as u64).collect();
    assert!(
        places.iter().all(|place| (*place as usize) < elements.len()),
        "beyond {} elements",
        elements.len()
    );
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let device = elements.device();
    let count = places.len() as u64;
    let (places, gathered) = (device.upload(&places)?, device.allocate(places.len())?);
    let (grid, block) = threads(count);
    launch!(device, "gather", grid, block, elements.pointer(), places.pointer(), count, gathered.pointer())?;
    gathered.read()
}

/// A leaf's elements, and the siblings on its way to the cap.
pub type Leaf = (Vec<u64>, Vec<Digest>);

/// Polynomials that are committed to.
#[derive(Debug)]
pub struct Commitment {
    /// In bit-reversed order.
    pub(crate) coefficients: Buffer,
    /// By coset: of the rows `t · 2^rate_bits + j` those with the same `j` are neighbours.
    pub(crate) extension: Buffer,
    width: u32,
    log_rows: u32,
    rate_bits: u32,
    tree: Tree,
}

impl Commitment {
    /// Commits to the polynomials that take these values on the subgroup: of each, one after the other, in the subgroup's natural order.
    /// They may be any residues.
    ///
    /// # Errors
    /// [`DriverError`].
    ///
    /// # Panics
    /// When the columns are not whole.
    pub fn of_values(
        device: &Device,
        domain: &Domain,
        values: &[u64],
        cap_height: u32,
    ) -> Result<Self, DriverError> {
        let rows = 1 << domain.log_rows;
        assert!(values.len().is_multiple_of(rows), "{} elements are no columns of {rows}", values.len());
        let canonical = values.iter().map(|value| F::from_noncanonical_u64(*value).to_canonical_u64());
        let coefficients = device.upload(&canonical.collect::<Vec<_>>())?;
        let width = u32::try_from(values.len() / rows).unwrap_or(u32::MAX);
        domain.transform(&coefficients, width, Direction::ToCoefficients)?;
        Self::of_coefficients(domain, coefficients, width, cap_height)
    }

    /// Commits to the polynomials of these coefficients, in bit-reversed order.
    pub(crate) fn of_coefficients(
        domain: &Domain,
        coefficients: Buffer,
        width: u32,
        cap_height: u32,
    ) -> Result<Self, DriverError> {
        let extension = domain.extend(&coefficients, width)?;
        Self::hashed(coefficients, extension, width, domain, cap_height)
    }

    /// Commits to polynomials whose values on the coset are known.
    pub(crate) fn hashed(
        coefficients: Buffer,
        extension: Buffer,
        width: u32,
        domain: &Domain,
        cap_height: u32,
    ) -> Result<Self, DriverError> {
        let Domain { log_rows, rate_bits, .. } = *domain;
        let log_all = domain.log_all();
        let tree = Tree::above(extension.device(), log_all, cap_height, |digests| {
            let (grid, block) = threads(1 << log_all);
            launch!(
                extension.device(),
                "hash_leaves",
                grid,
                block,
                extension.pointer(),
                width,
                log_all,
                rate_bits,
                digests.pointer()
            )
        })?;
        Ok(Self { coefficients, extension, width, log_rows, rate_bits, tree })
    }

    /// How many polynomials.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// The coefficients, one polynomial after the other, each from the constant term on.
    ///
    /// # Errors
    /// [`DriverError::Failed`].
    pub fn coefficients(&self) -> Result<Vec<u64>, DriverError> {
        let mut coefficients = self.coefficients.read()?;
        coefficients.chunks_exact_mut(1 << self.log_rows).for_each(reverse_index_bits_in_place);
        Ok(coefficients)
    }

    /// The values on the coset, one polynomial after the other, each in the coset's natural order.
    ///
    /// # Errors
    /// [`DriverError::Failed`].
    pub fn extension(&self) -> Result<Vec<u64>, DriverError> {
        let by_coset = self.extension.read()?;
        let (rows, cosets) = (1usize << self.log_rows, 1usize << self.rate_bits);
        let of_one = |values: &[u64]| -> Vec<u64> {
            (0..rows * cosets).map(|row| values[row % cosets * rows + row / cosets]).collect()
        };
        Ok(by_coset.chunks_exact(rows * cosets).flat_map(of_one).collect())
    }

    /// The tree's cap.
    ///
    /// # Errors
    /// [`DriverError::Failed`].
    pub fn cap(&self) -> Result<Vec<Digest>, DriverError> {
        self.tree.cap()
    }

    /// Rows of the extension, as leaves of the tree: leaf `i` is the row whose number is that of `i` with its bits reversed. For each its
    /// elements, and the siblings on its way to the cap.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn open(&self, leaves: &[usize]) -> Result<Vec<Leaf>, DriverError> {
        let log_all = self.log_rows + self.rate_bits;
        let places = leaves.iter().flat_map(|leaf| {
            let row = reverse_bits(*leaf, log_all as usize);
            let (coset, t) = (row & ((1 << self.rate_bits) - 1), row >> self.rate_bits);
            let place = (coset << self.log_rows) | t;
            (0..self.width as usize).map(move |column| (column << log_all) + place)
        });
        let elements = gather(&self.extension, places)?;
        let rows = elements.chunks_exact(self.width as usize).map(<[u64]>::to_vec);
        Ok(rows.zip(self.tree.siblings(leaves)?).collect())
    }
}
