package transfer

func crashChild() {}
