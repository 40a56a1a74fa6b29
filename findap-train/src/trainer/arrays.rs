//! The arrays of checkpoints, from and to any device. They hold the trained parameters, in their order.

use std::borrow::Cow;
use std::path::Path;

use findap_tensor::{Arena, ArenaSpec, Device, Tensor};

use crate::checkpoint::{self, State};
use crate::error::TrainError;
use crate::optimizer::{AdamW, offset};

/// Writes a checkpoint: the state, the trained weights and the moments.
pub(super) fn save(
    folder: &Path,
    state: &State,
    params: &Arena,
    optimizer: &AdamW,
    keep: usize,
) -> Result<(), TrainError> {
    let params = match &optimizer.master {
        Some(master) => on_host(master)?,
        None => trained_on_host(params, optimizer.trained())?,
    };
    let (first_moment, second_moment) = (on_host(&optimizer.first_moment)?, on_host(&optimizer.second_moment)?);
    let arrays =
        [("params", params.slice()), ("first_moment", first_moment.slice()), ("second_moment", second_moment.slice())];
    Ok(checkpoint::save(folder, "checkpoint", state, &arrays, keep)?)
}

/// Reads weights and moments of a verified checkpoint.
pub(super) fn load(checkpoint: &Path, params: &mut Arena, optimizer: &mut AdamW) -> Result<(), TrainError> {
    match &mut optimizer.master {
        Some(master) => read_arena(checkpoint, "params", master)?,
        None => read_trained(checkpoint, params, optimizer.first_moment.spec())?,
    }
    optimizer.round_master(params)?;
    read_arena(checkpoint, "first_moment", &mut optimizer.first_moment)?;
    read_arena(checkpoint, "second_moment", &mut optimizer.second_moment)
}

/// Writes the weights of the lowest dev loss.
pub(super) fn save_best(folder: &Path, state: &State, params: &Arena, trained: &ArenaSpec) -> Result<(), TrainError> {
    let params = trained_on_host(params, trained)?;
    Ok(checkpoint::save(folder, "best", state, &[("params", params.slice())], 1)?)
}

/// Reads the weights of the lowest dev loss.
pub(super) fn load_best(best: &Path, params: &mut Arena, trained: &ArenaSpec) -> Result<(), TrainError> {
    checkpoint::verify(best)?;
    read_trained(best, params, trained)
}

/// The trained parameters in this process's memory: the arena's own, or a copy.
fn trained_on_host<'a>(params: &'a Arena, trained: &ArenaSpec) -> Result<Cow<'a, Tensor>, TrainError> {
    if trained.len() == params.spec().len() {
        return on_host(params);
    }
    let mut host = Tensor::zeros(params.dtype(), 1, trained.len());
    for entry in trained.entries() {
        params.tensor().read(offset(params.spec(), entry), host.slice_mut().sub(entry.range()))?;
    }
    Ok(Cow::Owned(host))
}

/// Reads the trained parameters of a verified checkpoint to the device that has them.
fn read_trained(checkpoint: &Path, params: &mut Arena, trained: &ArenaSpec) -> Result<(), TrainError> {
    if trained.len() == params.spec().len() {
        return read_arena(checkpoint, "params", params);
    }
    let mut host = Tensor::zeros(params.dtype(), 1, trained.len());
    checkpoint::read_array(checkpoint, "params", host.slice_mut())?;
    for entry in trained.entries() {
        let start = offset(params.spec(), entry);
        params.tensor_mut().write(start, host.slice().sub(entry.range()))?;
    }
    Ok(())
}

/// The elements of an arena in this process's memory: the arena's own, or a copy from the device.
fn on_host(arena: &Arena) -> Result<Cow<'_, Tensor>, TrainError> {
    Ok(match arena.device() {
        Device::Cpu => Cow::Borrowed(arena.tensor()),
        Device::Cuda(_) => Cow::Owned(arena.tensor().to_host()?),
    })
}

/// Reads an array of a verified checkpoint to the arena's device.
fn read_arena(checkpoint: &Path, name: &str, arena: &mut Arena) -> Result<(), TrainError> {
    if arena.device() == Device::Cpu {
        return Ok(checkpoint::read_array(checkpoint, name, arena.flat_mut())?);
    }
    let mut host = Tensor::zeros(arena.dtype(), 1, arena.spec().len());
    checkpoint::read_array(checkpoint, name, host.slice_mut())?;
    Ok(arena.tensor_mut().write(0, host.slice())?)
}
