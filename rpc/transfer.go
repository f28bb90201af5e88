package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

// Bring uploads those objects of the closure of roots that the server lacks. Each is
// streamed.
func (c *Client) Bring(ctx context.Context, from store.Source, roots ...nix.StorePath) error {
	infos, err := store.ClosureInfos(ctx, from, roots...)
	if err != nil {
		return fmt.Errorf("bring inputs: %w", err)
	}
	for paths := range slices.Chunk(slices.Sorted(maps.Keys(infos)), maxPaths) {
		reply, err := c.Store.QueryMissing(ctx, &kilnv1.QueryMissingRequest{StorePaths: joined(c.dir, paths)})
		if err != nil {
			return fmt.Errorf("bring inputs: %w", err)
		}
		missing := make(map[string]bool)
		for _, p := range reply.StorePaths {
			missing[p] = true
		}
		for _, p := range paths {
			if !missing[c.dir.Join(p)] {
				delete(infos, p)
			}
		}
	}
	order, err := store.SortByReferences(slices.Collect(maps.Values(infos)))
	if err != nil {
		return fmt.Errorf("bring inputs: %w", err)
	}
	for _, info := range order {
		if err := c.upload(ctx, from, info); err != nil {
			return fmt.Errorf("bring '%s': %w", c.dir.Join(info.Path), err)
		}
	}
	return nil
}

func (c *Client) upload(ctx context.Context, from store.Source, info *nix.PathInfo) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Store.Upload(ctx)
	if err != nil {
		return err
	}
	const compression = kilnv1.Compression_COMPRESSION_ZSTD
	head := &kilnv1.UploadInfo{Info: pathInfo(c.dir, info), Compression: compression}
	err = stream.Send(&kilnv1.UploadRequest{Part: &kilnv1.UploadRequest_Info{Info: head}})
	if err == nil {
		_, err = send(compression, func(w io.Writer) error { return from.NAR(ctx, info.Path, w) }, func(p []byte) error {
			return stream.Send(&kilnv1.UploadRequest{Part: &kilnv1.UploadRequest_Data{Data: p}})
		})
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the answer says why it wants no more
		return err
	}
	_, err = stream.CloseAndRecv()
	return err
}

// Fetch downloads those objects of the closure of roots that a store lacks. Nothing is
// believed of them but what their hashes prove; with trusted their signatures do not
// matter.
func (c *Client) Fetch(ctx context.Context, to store.Store, trusted bool, roots ...nix.StorePath) error {
	infos := make(map[nix.StorePath]*nix.PathInfo)
	for pending := roots; len(pending) > 0; {
		p := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if _, seen := infos[p]; seen {
			continue
		}
		infos[p] = nil
		if _, err := to.PathInfo(ctx, p); err == nil {
			continue
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		m, err := c.Store.GetPathInfo(ctx, &kilnv1.GetPathInfoRequest{StorePath: c.dir.Join(p)})
		if err != nil {
			return fmt.Errorf("fetch '%s': %w", c.dir.Join(p), err)
		}
		info, err := pathInfoOf(c.dir, m, "info")
		if err == nil && info.Path != p {
			err = fmt.Errorf("the executor tells of '%s'", info.Path)
		}
		if err != nil {
			return fmt.Errorf("fetch '%s': %w", c.dir.Join(p), err)
		}
		infos[p] = info
		pending = append(pending, info.References...)
	}
	maps.DeleteFunc(infos, func(_ nix.StorePath, info *nix.PathInfo) bool { return info == nil })
	order, err := store.SortByReferences(slices.Collect(maps.Values(infos)))
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	for _, info := range order {
		if err := c.download(ctx, to, info, trusted); err != nil {
			return fmt.Errorf("fetch '%s': %w", c.dir.Join(info.Path), err)
		}
	}
	return nil
}

func (c *Client) download(ctx context.Context, to store.Store, info *nix.PathInfo, trusted bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Store.Download(ctx, &kilnv1.DownloadRequest{StorePath: c.dir.Join(info.Path), Compression: kilnv1.Compression_COMPRESSION_ZSTD})
	if err != nil {
		return err
	}
	data := &parts{next: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	archive, done, err := decompress(data, kilnv1.Compression_COMPRESSION_ZSTD, "compression")
	if err != nil {
		return err
	}
	defer done()
	err = to.Add(ctx, info, archive, store.AddOptions{CheckSignatures: !trusted})
	if data.err != nil {
		return data.err
	}
	return err
}
