//! Gang placement as a small integer problem: nodes with free slots in, one node per rank out, or why not.
//!
//! Properties: all ranks or none; no node gets more ranks than it has free slots; one node rather than several (ranks
//! exchange gradients at every step, a cache is filled once); among those, one on which the run has not just failed; then nodes that
//! cache the dataset; then the fullest node that still fits, so that wide gangs find room. The same input gives the same output.

/// A node, as far as placement cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Slots that hold no rank.
    pub free: u32,
    /// All slots.
    pub slots: u32,
    /// Whether the dataset lies in its cache.
    pub cached: bool,
    /// Whether the run's last attempt failed with a rank here: it may be the node's fault.
    pub tried: bool,
}

/// Why a gang was not placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoFit {
    /// All nodes together have fewer slots than the gang has ranks.
    TooWide {
        /// All slots.
        slots: u32,
    },
    /// Too few slots are free.
    Short {
        /// Free slots.
        free: u32,
        /// All slots.
        slots: u32,
    },
}

/// The node of each of `width` ranks; ranks of one node are neighbours.
///
/// # Errors
/// [`NoFit`] says what is missing.
pub fn place(nodes: &[Node], width: u32) -> Result<Vec<usize>, NoFit> {
    let slots: u32 = nodes.iter().map(|n| n.slots).sum();
    let free: u32 = nodes.iter().map(|n| n.free).sum();
    if slots < width {
        return Err(NoFit::TooWide { slots });
    }
    if free < width {
        return Err(NoFit::Short { free, slots });
    }
    let one = (0..nodes.len()).filter(|&i| nodes[i].free >= width);
    let one = one.min_by_key(|&i| (nodes[i].tried, !nodes[i].cached, nodes[i].free, i));
    if let Some(node) = one {
        return Ok(vec![node; width as usize]);
    }
    let mut by_use: Vec<usize> = (0..nodes.len()).collect();
    by_use.sort_by_key(|&i| (nodes[i].tried, !nodes[i].cached, std::cmp::Reverse(nodes[i].free), i));
    let ranks = by_use.into_iter().flat_map(|i| std::iter::repeat_n(i, nodes[i].free as usize));
    Ok(ranks.take(width as usize).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(free: u32, slots: u32, cached: bool) -> Node {
        Node { free, slots, cached, tried: false }
    }

    #[test]
    fn a_node_on_which_it_failed_comes_last() {
        let mut nodes = [node(2, 2, true), node(4, 4, false), node(3, 4, false)];
        nodes[0].tried = true;
        assert_eq!(place(&nodes, 2), Ok(vec![2, 2]));
        assert_eq!(place(&nodes, 9), Ok(vec![1, 1, 1, 1, 2, 2, 2, 0, 0]));
        assert_eq!(place(&nodes[..1], 2), Ok(vec![0, 0]), "better there than nowhere");
    }

    #[test]
    fn one_node_then_the_cache_then_the_fullest() {
        let nodes = [node(4, 4, false), node(2, 4, false), node(3, 4, true)];
        assert_eq!(place(&nodes, 2), Ok(vec![2, 2]));
        assert_eq!(place(&nodes, 4), Ok(vec![0; 4]));
        assert_eq!(place(&nodes[..2], 2), Ok(vec![1, 1]));
        assert_eq!(place(&nodes, 6), Ok(vec![2, 2, 2, 0, 0, 0]));
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(place(&[node(1, 2, false)], 2), Err(NoFit::Short { free: 1, slots: 2 }));
        assert_eq!(place(&[node(2, 2, false)], 4), Err(NoFit::TooWide { slots: 2 }));
        assert_eq!(place(&[], 1), Err(NoFit::TooWide { slots: 0 }));
    }

    proptest! {
        #[test]
        fn a_gang_fits_whole_or_there_is_no_room(
            raw in prop::collection::vec((0u32..5, 0u32..5, any::<bool>()), 0..8),
            width in 1u32..12,
        ) {
            let nodes: Vec<Node> = raw.into_iter().map(|(free, more, cached)| node(free, free + more, cached)).collect();
            let free: u32 = nodes.iter().map(|n| n.free).sum();
            match place(&nodes, width) {
                Ok(ranks) => {
                    prop_assert_eq!(ranks.len() as u32, width);
                    for (i, n) in nodes.iter().enumerate() {
                        prop_assert!(ranks.iter().filter(|&&r| r == i).count() as u32 <= n.free);
                    }
                    let mut runs = ranks;
                    runs.dedup();
                    let mut distinct = runs.clone();
                    distinct.sort_unstable();
                    distinct.dedup();
                    prop_assert_eq!(runs.len(), distinct.len(), "ranks of a node are neighbours");
                }
                Err(_) => prop_assert!(free < width),
            }
        }
    }
}
