//! Text to token batches: readers, chat templates, token store, mixture, packing, and the closed world.
