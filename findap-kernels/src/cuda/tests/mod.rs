//! Tests of the ways around a launch: sources, the compiler and its cache, tensor maps, and what errors tell the user.

#![expect(clippy::print_stdout, reason = "a test says why it is skipped")]

pub(crate) mod cases;
pub(crate) mod probes;

use std::path::PathBuf;

use super::*;

static RIGHT: Source = Source {
    file: "test/right.cu",
    text: "extern \"C\" __global__ void right(float* x) { x[threadIdx.x] = warp_sum(1.0f); }\nKERNEL_ENTRY(right);\n",
    needs: Needs::Ampere,
};
static WRONG: Source = Source {
    file: "test/wrong.cu",
    text: "\n\nextern \"C\" __global__ void wrong() { no_such(); }\n",
    needs: Needs::Ampere,
};

/// The compiler, or a line that says that it is missing.
fn compiler(cache: Option<PathBuf>) -> Option<Compiler> {
    match Compiler::find_with_cache(cache) {
        Ok(compiler) => Some(compiler),
        Err(error @ CudaError::NoCompiler { .. }) => {
            let text = error.to_string();
            assert!(text.contains("FINDAP_CUDA_LIB") && text.contains("pip install"), "{text}");
            println!("skipped: {text}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_mistake_in_a_kernel_is_told_with_its_file_and_line() {
    let Some(compiler) = compiler(None) else { return };
    let error = compiler.cubin(&WRONG, "sm_80").unwrap_err();
    let CudaError::Compile { file, log, .. } = &error else { panic!("{error}") };
    assert_eq!(*file, "test/wrong.cu");
    assert!(log.contains("test/wrong.cu(3)") && log.contains("no_such"), "{log}");
    assert!(matches!(compiler.cubin(&RIGHT, "sm_1"), Err(CudaError::Compile { .. })));
}

#[test]
fn what_was_compiled_once_comes_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let Some(compiler) = compiler(Some(folder.path().join("deep").join("kernels"))) else { return };
    let image = compiler.cubin(&RIGHT, "sm_80").unwrap();
    assert!(image.starts_with(b"\x7fELF"));
    let files: Vec<PathBuf> =
        std::fs::read_dir(folder.path().join("deep/kernels")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    std::fs::write(&files[0], b"kept").unwrap();
    assert_eq!(compiler.cubin(&RIGHT, "sm_80").unwrap(), b"kept");
    assert_ne!(compiler.cubin(&RIGHT, "sm_90").unwrap(), b"kept", "another architecture is another file");
}

#[test]
fn machine_code_made_before_serves_a_machine_without_a_compiler() {
    let folder = tempfile::tempdir().unwrap();
    let missing = CudaError::NoCompiler { searched: Vec::new() };
    let compiler = Compiler::or_made_before(Err(missing.clone()), folder.path().into());
    assert_eq!(compiler.cubin(&RIGHT, "sm_80"), Err(missing.clone()));
    std::fs::write(folder.path().join(compile::name_made_before(&RIGHT, "sm_80")), b"made").unwrap();
    assert_eq!(compiler.cubin(&RIGHT, "sm_80").unwrap(), b"made");
    assert_eq!(compiler.cubin(&RIGHT, "sm_89").unwrap(), b"made", "of the same generation");
    assert_eq!(compiler.cubin(&RIGHT, "sm_90"), Err(missing.clone()), "of another one");
    assert_eq!(compiler.cubin(&WRONG, "sm_80"), Err(missing), "another text");
    assert_eq!(compiler.version(), "none");
}

#[test]
fn registers_come_with_the_log_and_a_virtual_architecture_gives_text() {
    let Some(compiler) = compiler(None) else { return };
    let module = compiler.compile(&RIGHT, "sm_90a", &["--ptxas-options=-v"]).unwrap();
    assert!(module.log.contains("Used ") && module.log.contains("'right'"), "{}", module.log);
    let ptx = compiler.compile(&RIGHT, "compute_100a", &[]).unwrap().image;
    assert!(String::from_utf8(ptx).unwrap().contains(".entry right"));
}

#[test]
fn a_device_or_the_reason_why_there_is_none() {
    match Gpu::open(0) {
        Ok(gpu) => {
            gpu.synchronize().unwrap();
            let count = probe().devices().len();
            assert_eq!(Gpu::open(count).err(), Some(CudaError::NoSuchDevice { ordinal: count, count }));
        }
        Err(error @ (CudaError::NoDevice(_) | CudaError::NoCompiler { .. })) => {
            assert!(!error.to_string().is_empty());
            println!("skipped: {error}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn sources_name_their_lines_and_the_devices_that_run_them() {
    let text = RIGHT.text();
    assert!(text.contains("#line 1 \"cuda/prelude.cuh\"") && text.contains("#line 1 \"test/right.cu\""));
    assert!(!text.contains("#include") && !text.contains("mbarrier"));
    let hopper = Source { file: "test/right.cu", text: RIGHT.text, needs: Needs::Hopper };
    assert!(hopper.text().contains("mbarrier"));
    assert_eq!([(7, 5), (8, 0), (9, 0), (10, 0)].map(|c| RIGHT.runs_on(c)), [false, true, true, true]);
    assert_eq!([(8, 0), (9, 0), (10, 0)].map(|c| hopper.runs_on(c)), [false, true, false]);
    assert_eq!((compile::arch(&RIGHT, (9, 0)), compile::arch(&hopper, (9, 0))), ("sm_90".into(), "sm_90a".into()));
}

#[test]
fn every_rule_of_tensor_maps_is_named() {
    let right = TensorMap {
        address: 256,
        element_bytes: 2,
        rank: 3,
        dims: [64, 100, 4, 0, 0],
        strides: [128, 12_800, 0, 0],
        box_dims: [64, 16, 1, 0, 0],
        swizzle: Swizzle::Bytes128,
    };
    assert_eq!(right.check(), Ok(()));
    let breaks = |map: TensorMap, word: &str| assert!(map.check().unwrap_err().contains(word), "{map:?}");
    breaks(TensorMap { rank: 6, ..right }, "rank");
    breaks(TensorMap { address: 264, ..right }, "address");
    breaks(TensorMap { strides: [120, 12_800, 0, 0], ..right }, "stride");
    breaks(TensorMap { dims: [64, 0, 4, 0, 0], ..right }, "dimension");
    breaks(TensorMap { box_dims: [64, 257, 1, 0, 0], ..right }, "side of the box");
    breaks(TensorMap { box_dims: [4, 16, 1, 0, 0], ..right }, "multiple of 16");
    breaks(TensorMap { swizzle: Swizzle::Bytes64, ..right }, "wider");
}

#[test]
fn errors_say_what_to_do() {
    let texts = [
        CudaError::NoDevice(Reason::NoDevice).to_string(),
        CudaError::NoSuchDevice { ordinal: 3, count: 1 }.to_string(),
        CudaError::NoCompiler { searched: vec!["/a".into()] }.to_string(),
        CudaError::OutOfMemory { want_bytes: 8, free_bytes: 4 }.to_string(),
        CudaError::BrokenLibrary { message: "no cuFoo".into() }.to_string(),
    ];
    let advice = ["run on", "CUDA_VISIBLE_DEVICES", "nor in /a; install", "smaller micro-batches", "install a driver"];
    for (text, advice) in texts.iter().zip(advice) {
        assert!(text.contains(advice), "{text}");
    }
}
