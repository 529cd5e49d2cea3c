// SPDX-License-Identifier: Apache-2.0

// Reads an audit log with the packages that Go's own module checksum database is
// read with, golang.org/x/mod/sumdb/note and tlog: the checkpoint's signature, an
// inclusion proof for each entry from the tiles alone, and a consistency proof
// from each earlier size.  Prints "ok SIZE".
//
//	main DIR VERIFIER-KEY
package main

import (
	"encoding/base64"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The package's tiles are 8 high and keep its own path names; the bytes in them are those of tlog-tiles.
type reader struct{ dir string }

func path(t tlog.Tile) string {
	n := t.N
	name := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		name = fmt.Sprintf("x%03d/%s", n%1000, name)
	}
	if t.W != 256 {
		name += fmt.Sprintf(".p/%d", t.W)
	}
	return fmt.Sprintf("tile/%d/%s", t.L, name)
}

func (r reader) Height() int { return 8 }
func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, t := range tiles {
		b, err := os.ReadFile(filepath.Join(r.dir, path(t)))
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}
func (r reader) SaveTiles([]tlog.Tile, [][]byte) {}

func entries(dir string, size int64) [][]byte {
	var all [][]byte
	for n := int64(0); n*256 < size; n++ {
		w := size - n*256
		if w > 256 {
			w = 256
		}
		name := strings.Replace(path(tlog.Tile{H: 8, L: 0, N: n, W: int(w)}), "tile/0/", "tile/entries/", 1)
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			log.Fatal(err)
		}
		for len(b) > 0 {
			l := int(b[0])<<8 | int(b[1])
			all = append(all, b[2:2+l])
			b = b[2+l:]
		}
	}
	return all
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	dir := os.Args[1]
	verifier, err := note.NewVerifier(os.Args[2])
	check(err)
	text, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	check(err)
	n, err := note.Open(text, note.VerifierList(verifier))
	check(err)
	lines := strings.Split(n.Text, "\n")
	if lines[0] != verifier.Name() {
		log.Fatalf("origin %q", lines[0])
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check(err)
	root, err := base64.StdEncoding.DecodeString(lines[2])
	check(err)
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	hashes := tlog.TileHashReader(tree, reader{dir})
	all := entries(dir, size)
	if int64(len(all)) != size {
		log.Fatalf("%d entries of %d", len(all), size)
	}
	for i, e := range all {
		proof, err := tlog.ProveRecord(size, int64(i), hashes)
		check(err)
		check(tlog.CheckRecord(proof, size, tree.Hash, int64(i), tlog.RecordHash(e)))
	}
	for m := int64(1); m <= size; m++ {
		old, err := tlog.TreeHash(m, hashes)
		check(err)
		proof, err := tlog.ProveTree(size, m, hashes)
		check(err)
		check(tlog.CheckTree(proof, size, tree.Hash, m, old))
	}
	fmt.Println("ok", size)
}
