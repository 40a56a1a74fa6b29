//! The flags of all commands that run a model: where it computes, and with which numbers.

use std::path::Path;

use anyhow::{Context, Result};
use findap_model::TextModel;
use findap_tensor::{Device, Dtype};
use findap_train::recipe::DeviceChoice;

/// The flags `--device` and `--dtype`.
#[derive(clap::Args)]
pub(crate) struct DeviceArguments {
    /// Where to compute: auto (the first GPU that can be used, else the CPU), cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device)]
    device: DeviceChoice,
    /// Numbers: f32, f64 (on the CPU), or bf16 (on the CPU f32 over weights rounded to bf16)
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Precision,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Precision {
    F32,
    F64,
    Bf16,
}

fn device(text: &str) -> Result<DeviceChoice, String> {
    DeviceChoice::try_from(text.to_owned())
}

impl DeviceArguments {
    /// Opens the device, and returns it with the format of weights on it.
    pub(crate) fn open(&self) -> Result<(Device, Dtype)> {
        let dtype = match self.dtype {
            Precision::F32 => Dtype::F32,
            Precision::F64 => Dtype::F64,
            Precision::Bf16 => Dtype::Bf16,
        };
        let (device, why_not_gpu) = self.device.open(dtype)?;
        if let Some(why) = why_not_gpu {
            eprintln!("computing on the CPU, not on the GPU: {why}");
        }
        Ok((device, dtype))
    }

    /// Loads the model of a folder onto the device.
    pub(crate) fn load(&self, folder: &Path) -> Result<TextModel> {
        let (device, dtype) = self.open()?;
        TextModel::load_to(&device, folder, dtype)
            .with_context(|| format!("cannot load the model {}", folder.display()))
    }
}
