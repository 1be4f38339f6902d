//! Tar archives.

/// An entry: its name as it is, even where it leads outside, what it holds, and where it points to if it is a link.
pub type Entry<'e> = (&'e str, &'e [u8], Option<&'e str>);

/// The archive of `entries`.
pub fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = ::tar::Builder::new(Vec::new());
    for (name, content, link) in entries {
        let mut header = ::tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if let Some(target) = link {
            header.set_entry_type(::tar::EntryType::Symlink);
            header.set_link_name_literal(target.as_bytes()).unwrap();
        }
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}
