from fusery.cli import main

raise SystemExit(main())
