"""What measuring needs: works, peers that do them, and what is made of the figures.

`timing` measures, `works` lists what is measured, `peer` is what a peer registers its implementations with, `player`
and `members` run one peer in processes of its own, `run` leads all of them round by round, `machine` says where;
`report` and `plots` make pages and pictures of the results, `model` says where one writer saturates. It knows no peer:
those are in `bench/peers`, one file each, and each is loaded only in its own process.
"""
