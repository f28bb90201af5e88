package nar

import "io"

// CopyArchive passes exactly one archive from r on to w, and returns its size.
// Every byte is checked, and nothing is taken from r that lies behind the
// archive; r should be buffered. After an error w may have got a part of the
// archive, but nothing that was not right up to there.
func CopyArchive(w io.Writer, r io.Reader, limits Limits) (int64, error) {
	in, out := NewReader(r, limits), NewWriter(w, limits)
	err := copyNodes(out, in)
	if err != nil {
		out.abandon(err)
	} else {
		err = out.Close()
	}
	return in.Offset(), err
}

func copyNodes(out *Writer, in *Reader) error {
	for {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if err := out.fill(in); err != nil {
			return err
		}
	}
}

// Skip reads exactly one archive from r, checks it, and returns its size.
func Skip(r io.Reader, limits Limits) (int64, error) {
	in := NewReader(r, limits)
	for {
		if _, err := in.Next(); err == io.EOF {
			return in.Offset(), nil
		} else if err != nil {
			return in.Offset(), err
		}
	}
}
