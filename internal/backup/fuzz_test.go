package backup

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

// Whatever a snapshot's file holds, reading it ends, with entries that lead
// nowhere else.
func FuzzSnapshot(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"20261121T223408Z"}` + "\n" + `{"path":"registry/repositories/a/_tags/v1","mode":384,"data":"e30="}` + "\n" +
		`{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"kept":true}` + "\n"))
	f.Add([]byte(`{"version":1}` + "\n" + `{"path":"../x"}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		h := sha256.New()
		s, err := readSnapshot(bytes.NewReader(content), h)
		if !bytes.Equal(h.Sum(nil), sum(content)) {
			t.Error("the sum is not of all bytes")
		}
		if err != nil {
			return
		}
		for _, e := range s.entries {
			if err := e.check(); err != nil {
				t.Errorf("%+v: %v", e, err)
			}
		}
	})
}

func sum(content []byte) []byte {
	s := sha256.Sum256(content)
	return s[:]
}
