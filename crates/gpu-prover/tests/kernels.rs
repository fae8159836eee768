//! The kernels that commit, on the emulated driver, against the library's Rust.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod emulated;

use emulated::{CHILD, Control, device, emulator, folder, said};
use gpu_prover::commitment::{Commitment, Digest, Domain};
use gpu_prover::device::Device;
use gpu_prover::driver;
use plonky2::field::goldilocks_field::GoldilocksField as F;
use plonky2::field::polynomial::{PolynomialCoeffs, PolynomialValues};
use plonky2::field::types::{Field, Field64, PrimeField64, Sample};
use plonky2::hash::merkle_tree::MerkleTree;
use plonky2::hash::poseidon::{
    ALL_ROUND_CONSTANTS, HALF_N_FULL_ROUNDS as FULL_ROUNDS, N_PARTIAL_ROUNDS, Poseidon, PoseidonHash,
    SPONGE_WIDTH as WIDTH,
};
use plonky2::util::reverse_bits;
use std::{fmt::Write as _, fs, path::Path};

fn residues(count: usize) -> Vec<u64> {
    let edges = [0, 1, F::ORDER - 1, F::ORDER, F::ORDER + 1, u64::MAX, 0xffff_ffff, 1 << 32, 1 << 63];
    (0..count).map(|i| if i % 3 == 0 { edges[i / 3 % edges.len()] } else { F::rand().0 }).collect()
}

/// What the library makes of the same values: coefficients, values on the coset, and the tree.
struct Expected {
    coefficients: Vec<u64>,
    extension: Vec<u64>,
    tree: MerkleTree<F, PoseidonHash>,
}

fn expected(values: &[u64], log_rows: u32, rate_bits: u32, cap_height: u32) -> Expected {
    let columns = values.chunks(1 << log_rows);
    let columns = columns.map(|column| column.iter().map(|value| F::from_noncanonical_u64(*value)).collect());
    let polynomials: Vec<_> = columns.map(|column| PolynomialValues::<F>::new(column).ifft()).collect();
    let extend = |polynomial: &PolynomialCoeffs<F>| {
        polynomial.lde(rate_bits as usize).coset_fft(F::coset_shift()).values
    };
    let extended: Vec<Vec<F>> = polynomials.iter().map(extend).collect();
    let log_leaves = log_rows + rate_bits;
    let leaf = |leaf: usize| {
        let row = reverse_bits(leaf, log_leaves as usize);
        extended.iter().map(|column| column[row]).collect()
    };
    let numbers = |elements: &[F]| elements.iter().map(F::to_canonical_u64).collect::<Vec<u64>>();
    Expected {
        coefficients: polynomials.iter().flat_map(|polynomial| numbers(&polynomial.coeffs)).collect(),
        extension: extended.iter().flat_map(|column| numbers(column)).collect(),
        tree: MerkleTree::new((0..1 << log_leaves).map(leaf).collect(), cap_height as usize),
    }
}

fn canonical(hash: plonky2::hash::hash_types::HashOut<F>) -> Digest {
    hash.elements.map(|element| element.to_canonical_u64())
}

#[test]
fn commitments_are_those_of_the_library_at_every_size() {
    let device = device("emulated");
    for (log_rows, rate_bits, cap_height) in [
        (0, 0, 0),
        (1, 0, 0),
        (0, 3, 2),
        (1, 3, 1),
        (2, 3, 4),
        (5, 1, 0),
        (6, 3, 4),
        (9, 0, 3),
        (10, 2, 0),
        (12, 1, 4),
    ] {
        let domain = Domain::new(&device, log_rows, rate_bits).unwrap();
        for width in [1, 2, 7, 8, 9, 33, 135] {
            if log_rows + rate_bits > 9 && width > 2 {
                continue;
            }
            let values = residues(width << log_rows);
            let made = Commitment::of_values(&device, &domain, &values, cap_height).unwrap();
            let expected = expected(&values, log_rows, rate_bits, cap_height);
            let what = format!("{width} polynomials of 2^{log_rows}, rate 2^-{rate_bits}, cap {cap_height}");
            assert!(made.coefficients().unwrap() == expected.coefficients, "coefficients: {what}");
            assert!(made.extension().unwrap() == expected.extension, "extension: {what}");
            let cap: Vec<Digest> = expected.tree.cap.0.iter().map(|hash| canonical(*hash)).collect();
            assert_eq!(made.cap().unwrap(), cap, "{what}");
            let count = 1 << (log_rows + rate_bits);
            let leaves = [0, count / 3, count - 1];
            for (leaf, (elements, siblings)) in leaves.iter().zip(made.open(&leaves).unwrap()) {
                let row: Vec<u64> = expected.tree.get(*leaf).iter().map(F::to_canonical_u64).collect();
                let proof = expected.tree.prove(*leaf).siblings.into_iter().map(canonical);
                assert_eq!((elements, siblings), (row, proof.collect()), "{what}, leaf {leaf}");
            }
        }
    }
}

/// Multiplies and commits, and says whether that is right, and how much was not released.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    driver::use_library(Path::new(&path)).unwrap();
    let compared = Device::open(0, Some(1 << 20)).and_then(|device| {
        let (log_rows, rate_bits) = (10, 1);
        let values = residues(2 << log_rows);
        let domain = Domain::new(&device, log_rows, rate_bits)?;
        let made = Commitment::of_values(&device, &domain, &values, 1)?;
        let expected = expected(&values, log_rows, rate_bits, 1);
        let cap: Vec<Digest> = expected.tree.cap.0.iter().map(|hash| canonical(*hash)).collect();
        Ok(if made.coefficients()? != expected.coefficients {
            "coefficients wrong"
        } else if made.extension()? != expected.extension {
            "extension wrong"
        } else if made.cap()? != cap {
            "tree wrong"
        } else {
            "all right"
        })
    });
    let control = Control::of(Path::new(&path));
    let all = residues(100);
    let right = |a: u64, b: u64| {
        control.multiply(a, b)
            == (F::from_noncanonical_u64(a) * F::from_noncanonical_u64(b)).to_canonical_u64()
    };
    let products = all.iter().all(|a| all.iter().all(|b| right(*a, *b)));
    let live = control.live();
    let compared = compared.map_or_else(|error| error.to_string(), ToOwned::to_owned);
    println!("\nsaid: products {products}, {compared}; {live} live");
}

#[test]
fn broken_kernels_are_found() {
    let said_of = |name: &str, replaced: &[(&str, &str, &str)]| said(&emulator(name, replaced), &[]);
    assert!(said_of("whole", &[]).starts_with("products true, all right; "));
    let (field, hash, tree) = ("goldilocks.cuh", "poseidon.cuh", "commitment.cuh");
    for (name, file, from, to, found) in [
        ("no-borrow", field, "less -= EPSILON", "(void)0", "products false"),
        ("no-carry", field, "sum += EPSILON;\n    return", "(void)0;\n    return", "products false"),
        ("matrix", hash, "13, 13, 39", "13, 13, 38", "tree wrong"),
        ("diagonal", hash, "i == 0 ? 8 : 0", "i == 0 ? 7 : 0", "tree wrong"),
        ("partial-corner", hash, "first, PARTIAL_CORNER", "first, 24", "tree wrong"),
        ("partial-row", hash, "state[i], of_row", "state[i], of_column", "tree wrong"),
        ("partial-column", hash, "first, of_column, state[i]", "first, of_row, state[i]", "tree wrong"),
        (
            "partial-begin",
            hash,
            "i < WIDTH; i++) state[i] = moved[i]",
            "i < 11; i++) state[i] = moved[i]",
            "tree wrong",
        ),
        ("rounds", hash, "FULL_ROUNDS_AT_EACH_END 4", "FULL_ROUNDS_AT_EACH_END 3", "tree wrong"),
        ("no-domain", tree, "state[RATE] = width + 1", "state[RATE] = width", "tree wrong"),
        ("order", tree, "reverse_bits(row, log_rows)", "row", "tree wrong"),
        (
            "cosets",
            tree,
            "((place & ((1ull << log_coset) - 1)) << rate_bits) | (place >> log_coset)",
            "place + 0 * log_coset",
            "tree wrong",
        ),
        ("no-scale", tree, "multiply(tile[i], scale)", "multiply(tile[i], scale + 1)", "coefficients wrong"),
        (
            "no-first-barrier",
            tree,
            "layer++) {\n        __syncthreads();",
            "layer++) {",
            "coefficients wrong",
        ),
        (
            "no-last-barrier",
            tree,
            "    __syncthreads();\n    bool is_last",
            "    bool is_last",
            "coefficients wrong",
        ),
        ("root", tree, "(log_n - 1 - low_bit - bit)", "(log_n - 1 - bit)", "coefficients wrong"),
        ("turned", tree, "subtract(a, turned)", "add(a, turned)", "extension wrong"),
        ("powers", tree, "powers[i]", "powers[0]", "extension wrong"),
        ("last-column", tree, "begin + i < width", "begin + i + 1 < width", "tree wrong"),
    ] {
        let said = said_of(name, &[(file, from, to)]);
        assert!(said.contains(found), "{name}: {said}");
    }
}

#[test]
fn too_large_a_matrix_is_out_of_memory() {
    let library = emulator("small", &[]);
    let said = said(&library, &[("EMULATED_MEMORY", "1000")]);
    assert!(
        said.contains(", cuMemAlloc failed on device 0: OutOfMemory") && said.ends_with(" 0 live"),
        "{said}"
    );
}

#[test]
fn the_constants_are_the_librarys() {
    let rounds = |first: usize| ALL_ROUND_CONSTANTS[first * WIDTH..][..FULL_ROUNDS * WIDTH].to_vec();
    // Of each partial round the elements of its row and its column in turn, its constant, and one for the alignment.
    let columns = <F as Poseidon>::FAST_PARTIAL_ROUND_VS;
    let round = |round: usize| {
        let row = <F as Poseidon>::FAST_PARTIAL_ROUND_W_HATS[round];
        let pairs = row.into_iter().zip(columns[round]).flat_map(|(of_row, of_column)| [of_row, of_column]);
        pairs.chain([<F as Poseidon>::FAST_PARTIAL_ROUND_CONSTANTS[round], 0]).collect::<Vec<_>>()
    };
    // The library multiplies from the left, the kernel from the right.
    let initial = <F as Poseidon>::FAST_PARTIAL_ROUND_INITIAL_MATRIX;
    let transposed = (0..WIDTH - 1).flat_map(|row| initial.iter().map(move |of_one| of_one[row]));
    let corner = <F as Poseidon>::MDS_MATRIX_CIRC[0] + <F as Poseidon>::MDS_MATRIX_DIAG[0];
    let tables = [
        // A full round adds the constants of the next one.
        (
            "__constant__",
            "FIRST_CONSTANTS",
            [rounds(0), <F as Poseidon>::FAST_PARTIAL_FIRST_ROUND_CONSTANT.to_vec()].concat(),
        ),
        ("__constant__", "LAST_CONSTANTS", [rounds(FULL_ROUNDS + N_PARTIAL_ROUNDS), vec![0; WIDTH]].concat()),
        (
            "static __device__ const",
            "PARTIAL_TABLE",
            (0..N_PARTIAL_ROUNDS).flat_map(round).chain(transposed).collect(),
        ),
    ];
    let mut text = format!(
        "// Poseidon's constants. Written by tests/kernels.rs (UPDATE_CONSTANTS=1).\n\n\
         #define PARTIAL_CORNER {corner}ull\n"
    );
    for (kind, name, values) in tables {
        let _ = writeln!(text, "\n{kind} u64 {name}[{}] = {{", values.len());
        for line in values.chunks(6) {
            let line: Vec<String> = line.iter().map(|constant| format!("{constant:#018x}ull")).collect();
            let _ = writeln!(text, "    {},", line.join(", "));
        }
        text.push_str("};\n");
    }
    let path = folder().join("poseidon_constants.inc");
    if std::env::var_os("UPDATE_CONSTANTS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(fs::read_to_string(&path).unwrap() == text, "{} is not current", path.display());
}

#[test]
fn the_emulated_driver_has_every_kernel() {
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let emulator = read(&folder().join("emulator.cpp"));
    let mut count = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        for rest in read(&entry.unwrap().path()).split("__global__ void ").skip(1) {
            let name = rest.trim_start_matches("HASH_BOUNDS ").split('(').next().unwrap();
            let is_there =
                ["", "_WITH_BARRIERS"].map(|kind| emulator.contains(&format!("KERNEL{kind}({name})")));
            assert_ne!(is_there[0], is_there[1], "{name}");
            count += 1;
        }
    }
    assert!(count >= 18, "{count}");
}
