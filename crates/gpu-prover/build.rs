//! Compiles the kernels, where there is an nvcc: named by `NVCC`, in `$CUDA_PATH/bin`, in /usr/local/cuda/bin or on the path. Without one the
//! crate has no kernels, and says so when a device is opened.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Machine code for what data centres have, and the intermediate code that drivers compile for everything from Turing on.
const TARGETS: [&str; 4] = [
    "arch=compute_80,code=sm_80",
    "arch=compute_89,code=sm_89",
    "arch=compute_90,code=sm_90",
    "arch=compute_75,code=compute_75",
];

fn main() {
    println!("cargo:rustc-check-cfg=cfg(has_kernels)");
    println!("cargo:rerun-if-changed=kernels");
    for variable in ["NVCC", "CUDA_PATH", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let Some(nvcc) = find_nvcc() else { return };
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else { return };
    let mut command = Command::new(&nvcc);
    command.args(["-fatbin", "-O3", "-o"]).arg(out.join("kernels.fatbin")).arg("kernels/kernels.cu");
    for target in TARGETS {
        command.arg("-gencode").arg(target);
    }
    let result = match command.output() {
        Ok(output) if output.status.success() => {
            println!("cargo:rustc-cfg=has_kernels");
            return;
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(e) => e.to_string(),
    };
    // Whoever has an nvcc wants the kernels.
    for line in result.lines() {
        println!("cargo:error={} does not compile the kernels: {line}", nvcc.display());
    }
    std::process::exit(1);
}

fn find_nvcc() -> Option<PathBuf> {
    if let Some(named) = env::var_os("NVCC") {
        return Some(named.into());
    }
    let cuda = env::var_os("CUDA_PATH").map(|path| Path::new(&path).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders =
        cuda.into_iter().chain([PathBuf::from("/usr/local/cuda/bin")]).chain(env::split_paths(&path));
    folders.map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())
}
