#[cfg(feature = "emulator")]
mod device;
mod golden;
mod gradients;
#[cfg(feature = "emulator")]
mod plain;
