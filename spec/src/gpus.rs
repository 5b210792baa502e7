//! How many GPUs a process may use.

/// Of `present` GPUs those that CUDA shows to a process with this `CUDA_VISIBLE_DEVICES`, as its documentation has it: the list ends at
/// the first entry that names no GPU. Slices of a GPU (MIG) count as GPUs.
pub fn visible(present: u32, cuda_visible_devices: Option<&str>) -> u32 {
    let Some(list) = cuda_visible_devices.filter(|_| present > 0) else { return present };
    let names = list.split(',').map(str::trim).take_while(|name| !matches!(*name, "" | "-1" | "NoDevFiles"));
    let (slices, whole): (Vec<&str>, Vec<&str>) = names.partition(|name| name.starts_with("MIG"));
    slices.len() as u32 + present.min(whole.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn what_cuda_is_told_to_show_counts() {
        assert_eq!(visible(8, None), 8);
        assert_eq!(visible(8, Some("2,3")), 2);
        assert_eq!(visible(8, Some("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6")), 1);
        assert_eq!(visible(1, Some("MIG-a, MIG-b,MIG-c")), 3);
        assert_eq!(visible(2, Some("0,1,2,3")), 2);
        for none in ["", "-1", "-1,0", "NoDevFiles"] {
            assert_eq!(visible(8, Some(none)), 0, "{none}");
        }
        assert_eq!(visible(8, Some("0,-1,1")), 1);
        assert_eq!(visible(0, Some("0")), 0);
    }
}
