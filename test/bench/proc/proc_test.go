package proc

import (
	"os"
	"testing"
	"time"
)

func TestCPU(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for began := time.Now(); time.Since(began) < time.Minute; {
		for i := range 1 << 20 {
			sum += i * sum
		}
		now, err := CPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now >= before+50*time.Millisecond {
			return
		}
	}
	t.Errorf("no processor time in a minute of work (%d)", sum)
}

func TestMemory(t *testing.T) {
	const size = 32 << 20
	before, err := MemoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, size)
	for i := 0; i < size; i += 4096 {
		block[i] = 1
	}
	now, err := MemoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := now.Resident - before.Resident; grown < size/2 || now.Peak < now.Resident {
		t.Errorf("%d bytes more after %d were touched, peak %d of %d", grown, len(block), now.Peak, now.Resident)
	}
}

func TestNobody(t *testing.T) {
	const nobody = 1 << 23 // beyond the largest number that Linux gives
	if _, err := CPU(nobody); err == nil {
		t.Error("processor time of a process that is not there")
	}
	if _, err := MemoryOf(nobody); err == nil {
		t.Error("memory of a process that is not there")
	}
	if err := ResetPeak(nobody); err == nil {
		t.Error("the peak of a process that is not there was reset")
	}
}
