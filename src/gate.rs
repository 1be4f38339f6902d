//! TEMP
#[derive(clap::Args)]
pub struct Args {}
pub fn run(_: &Args) -> Result<u8, crate::Failure> {
    Ok(0)
}
