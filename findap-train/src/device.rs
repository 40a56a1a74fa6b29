//! The choice of the device on which a run or a command computes.

use findap_model::{Device, DeviceKind, Dtype};
use findap_tensor::{Probe, TensorError, probe};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `run.device`, as text: `auto`, `cpu` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first GPU if it can be used and computes in the recipe's format, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            other => {
                let ordinal = other.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok());
                let refusal = || format!("unknown device \"{other}\"; there are \"auto\", \"cpu\" and \"cuda:N\"");
                ordinal.map(DeviceChoice::Cuda).ok_or_else(refusal)
            }
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> String {
        match choice {
            DeviceChoice::Auto => "auto".to_owned(),
            DeviceChoice::Cpu => "cpu".to_owned(),
            DeviceChoice::Cuda(ordinal) => format!("cuda:{ordinal}"),
        }
    }
}

impl DeviceChoice {
    /// The kind of the device that [`DeviceChoice::open`] will choose for weights in `dtype`, as far as a look at the first GPU tells.
    pub fn kind(self, dtype: Dtype) -> DeviceKind {
        match self {
            DeviceChoice::Cpu => DeviceKind::Cpu,
            DeviceChoice::Cuda(_) => DeviceKind::Cuda,
            DeviceChoice::Auto if dtype == Dtype::F64 || matches!(probe(), Probe::Absent(_)) => DeviceKind::Cpu,
            DeviceChoice::Auto => DeviceKind::Cuda,
        }
    }

    /// Opens the device for weights in `dtype`. With [`DeviceChoice::Auto`], the second value says why a GPU that is there is not
    /// used.
    ///
    /// # Errors
    /// [`TensorError::Cuda`]; as [`Device::supports`].
    pub fn open(self, dtype: Dtype) -> Result<(Device, Option<TensorError>), TensorError> {
        let on_gpu = |ordinal| {
            let device = Device::gpu(ordinal)?;
            device.supports(dtype)?;
            Ok::<_, TensorError>(device)
        };
        let on_cpu = || Device::Cpu.supports(dtype).map(|()| Device::Cpu);
        match self {
            DeviceChoice::Cpu => Ok((on_cpu()?, None)),
            DeviceChoice::Cuda(ordinal) => Ok((on_gpu(ordinal)?, None)),
            DeviceChoice::Auto if matches!(probe(), Probe::Absent(_)) => Ok((on_cpu()?, None)),
            DeviceChoice::Auto => on_gpu(0).map_or_else(|why| Ok((on_cpu()?, Some(why))), |device| Ok((device, None))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(0), DeviceChoice::Cuda(7)] {
            assert_eq!(DeviceChoice::try_from(String::from(choice)), Ok(choice));
        }
        for bad in ["gpu", "cuda:", "cuda:-1", "CPU", ""] {
            assert!(DeviceChoice::try_from(bad.to_owned()).unwrap_err().contains("cuda:N"), "{bad}");
        }
        assert_eq!(DeviceChoice::Cuda(1).kind(Dtype::Bf16), DeviceKind::Cuda);
        assert_eq!(DeviceChoice::Auto.kind(Dtype::F64), DeviceKind::Cpu);
        assert_eq!(DeviceChoice::Cpu.open(Dtype::F64).unwrap().0, Device::Cpu);
        assert_eq!(DeviceChoice::Cpu.open(Dtype::Bf16).unwrap().0, Device::Cpu);
    }
}
